// What the pages share: their peer, its connection to the Python peer, and the requests that they send.
import { circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { webSockets } from '@libp2p/websockets'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { NotOffered, Rejected, sendRequest } from './request.js'

const PATIENCE = 90_000 // milliseconds; the peer's people have 60 s
const WAITING_AFTER = 500 // milliseconds: by then every program has answered

export const element = id => document.getElementById(id)

/** The address in the page's own, behind the #. */
export const givenAddress = decodeURIComponent(location.hash.slice(1))

/** A js-libp2p peer that dials by WebSocket, and through relays. */
export const createPeer = options => createLibp2p({
  transports: [webSockets(), circuitRelayTransport()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify() },
  // In a browser, js-libp2p's default dials neither WebSocket without TLS nor private addresses. This peer is on loopback.
  connectionGater: { denyDialMultiaddr: () => false },
  ...options
})

/** Shows who `node` is, and lets a person send requests. */
export function showPage (node) {
  element('self').textContent = node.peerId.toString()
  element('address').value = givenAddress
  const show = () => showConnection(node)
  node.addEventListener('connection:open', show)
  node.addEventListener('connection:close', show)
  show()
  onSubmit('ping', () => send(node, 'Ping'))
  onSubmit('sign', () => send(node, { Sign: { text: element('text').value } }))
  onSubmit('erase', () => send(node, 'Erase'))
  document.querySelectorAll('button').forEach(button => { button.disabled = false })
}

// The connection

function showConnection (node) {
  const address = element('address').value.trim()
  const connection = node.getConnections().find(({ remotePeer }) => address.endsWith(`/p2p/${remotePeer}`))
  element('connection').dataset.state = connection ? 'open' : 'closed'
  element('connection').textContent = !connection ? 'not connected' : connection.limits ? 'connected through a relay' : 'connected'
}

// The requests

/** Shows a request at the top of the list `id`. */
export function addEntry (id, request) {
  const entry = document.createElement('li')
  // The seconds are no part of the state: a screen reader would tell each of them.
  entry.innerHTML = '<code></code><span><span class="state"></span> <time aria-hidden="true"></time></span><p class="detail"></p>'
  const [text, , state, time, detail] = entry.querySelectorAll('*')
  text.textContent = JSON.stringify(request)
  element(id).prepend(entry)
  const start = performance.now()
  const show = (name, label, more = '') => {
    entry.dataset.state = name
    state.textContent = label
    detail.textContent = more
  }
  const showTime = format => { time.textContent = format(performance.now() - start) }
  return { show, showTime }
}

async function send (node, request) {
  const { show, showTime } = addEntry('requests', request)
  show('sent', 'sent')
  const clock = setInterval(showTime, 1000, elapsed => `${Math.round(elapsed / 1000)} s`)
  const waiting = setTimeout(show, WAITING_AFTER, 'waiting', 'waiting for approval')
  try {
    const address = multiaddr(element('address').value.trim())
    const response = await sendRequest(node, address, request, { signal: AbortSignal.timeout(PATIENCE) })
    show('answered', 'answered', JSON.stringify(response))
  } catch (error) {
    if (error instanceof Rejected) {
      show('rejected', 'rejected', 'The peer closed the stream without a response.')
    } else if (error instanceof NotOffered) {
      show('not-offered', 'not offered', 'The peer does not offer this protocol to us: it rejects all that we ask.')
    } else {
      show('failed', 'failed', error.message)
    }
  } finally {
    clearInterval(clock)
    clearTimeout(waiting)
    showTime(elapsed => elapsed < 1000 ? `${elapsed.toFixed(0)} ms` : `${(elapsed / 1000).toFixed(1)} s`)
  }
}

function onSubmit (id, submit) {
  element(id).addEventListener('submit', event => {
    event.preventDefault()
    if (element('address').reportValidity()) {
      submit()
    }
  })
}
