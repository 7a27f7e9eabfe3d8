// Nobody can dial a browser: this page is asked through the relay by which it reaches the Python peer.
import { multiaddr } from '@multiformats/multiaddr'
import { addEntry, createPeer, element, givenAddress, showPage } from './page.js'
import { serveRequests } from './request.js'

// What comes before /p2p-circuit leads to the relay.
const [relay] = givenAddress.split('/p2p-circuit')

function showReservation () {
  const [own] = node.getMultiaddrs()
  element('reservation').dataset.state = own ? 'open' : 'closed'
  element('reservation').textContent = own ? 'reserved' : 'no reservation'
  element('own').textContent = own ?? '…'
}

/** What this page says to whom; undefined rejects. */
function answer (request, peer) {
  const response = request === 'Ping' ? 'pong' : undefined
  const state = response === undefined ? 'rejected' : 'answered'
  addEntry('received', request).show(state, state, `from ${peer}`)
  return response
}

// It reserves a place on the first relay that it is connected to.
const node = await createPeer({ addresses: { listen: ['/p2p-circuit'] } })
node.addEventListener('self:peer:update', showReservation)
await serveRequests(node, answer)
showPage(node)
if (relay) {
  await node.dial(multiaddr(relay)).catch(error => console.warn(`The relay cannot be reached: ${error.message}`))
}
