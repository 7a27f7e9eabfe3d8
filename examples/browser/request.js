// The request protocol of stronghold-p2p, for js-libp2p: one stream a request, one JSON message each way.
import { lpStream } from '@libp2p/utils'

const PROTOCOL = '/stronghold-p2p/1.0.0'
const MAX_RESPONSE = 2 ** 20 // bytes

/** The firewall said no, or the program declined: the stream was closed in order, without a byte of response. */
export class Rejected extends Error {}

/** The peer has no such protocol, or its firewall rejects every request of ours and does not offer it to us. */
export class NotOffered extends Error {}

/**
 * Sends a request to the peer at an address; dials it unless there is a connection.
 *
 * Tagged unions have the form that serde gives them in Rust: "Ping", or {"Sign": {"text": "…"}}.
 */
export async function sendRequest (node, address, request, { signal }) {
  let connection
  try {
    connection = await node.dial(address, { signal })
  } catch (error) {
    // Browsers do not tell why a WebSocket could not be opened.
    const reason = error.message ? `: ${error.message}` : ''
    throw new Error(`Could not connect to ${address}${reason}`, { cause: error })
  }
  let stream
  try {
    // Without runOnLimitedConnection js-libp2p refuses to open the stream through a relay.
    stream = await connection.newStream(PROTOCOL, { signal, runOnLimitedConnection: true })
  } catch (error) {
    throw error.name === 'UnsupportedProtocolError' ? new NotOffered() : error
  }
  let responded = false
  stream.addEventListener('message', () => { responded = true }, { once: true })
  try {
    const messages = lpStream(stream, { maxDataLength: MAX_RESPONSE })
    await messages.write(new TextEncoder().encode(JSON.stringify(request)), { signal })
    const response = await messages.read({ signal })
    await stream.close({ signal })
    return JSON.parse(new TextDecoder().decode(response.subarray()))
  } catch (error) {
    if (connection.status !== 'open') {
      throw new Error('The connection was lost. Whether the request was handled is unknown.')
    }
    if (error.name === 'UnexpectedEOFError' && !responded) {
      await stream.close({ signal })
      throw new Rejected()
    }
    stream.abort(error)
    throw error
  }
}
