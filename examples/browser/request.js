// The request protocol of stronghold-p2p, for js-libp2p: one stream a request, one JSON message each way.
import { lpStream } from '@libp2p/utils'

const PROTOCOL = '/stronghold-p2p/1.0.0'
const MAX_MESSAGE = 2 ** 20 // bytes
const READING = 10_000 // milliseconds for a request to come, and for an answer to leave

const encode = message => new TextEncoder().encode(JSON.stringify(message))
const decode = bytes => JSON.parse(new TextDecoder().decode(bytes.subarray()))

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
    const messages = lpStream(stream, { maxDataLength: MAX_MESSAGE })
    await messages.write(encode(request), { signal })
    const response = await messages.read({ signal })
    await stream.close({ signal })
    return decode(response)
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

/**
 * Answers requests with what `answer(request, peer)` returns or promises. Undefined rejects.
 */
export async function serveRequests (node, answer) {
  await node.handle(PROTOCOL, async (stream, connection) => {
    try {
      const messages = lpStream(stream, { maxDataLength: MAX_MESSAGE })
      const request = decode(await messages.read({ signal: AbortSignal.timeout(READING) }))
      const response = await answer(request, connection.remotePeer)
      const signal = AbortSignal.timeout(READING)
      if (response !== undefined) {
        await messages.write(encode(response), { signal })
      }
      await stream.close({ signal })
    } catch (error) {
      stream.abort(error)
    }
    // Without runOnLimitedConnection js-libp2p refuses what comes through a relay.
  }, { runOnLimitedConnection: true })
}
