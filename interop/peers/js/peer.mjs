// A js-libp2p peer to test against. See interop/README.md for its command line.
import { readFile } from 'node:fs/promises'
import { finished } from 'node:stream/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { circuitRelayServer, circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { dcutr } from '@libp2p/dcutr'
import { identify } from '@libp2p/identify'
import { mdns } from '@libp2p/mdns'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { lpStream } from '@libp2p/utils'
import { webSockets } from '@libp2p/websockets'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const REQUEST_PROTOCOL = '/stronghold-p2p/1.0.0'
const MAX_MESSAGE = 17 * 2 ** 20
const DIAL_TIMEOUT = 60_000
const HIGH_LIMIT = 4096

const emit = line => console.log(JSON.stringify(line))

class UsageError extends Error {}

/** How many of a burst's requests succeeded, and how many failed in which way. */
class Failures extends Error {
  constructor (ok, failures) {
    super('requests failed')
    Object.assign(this, { ok, failures })
  }
}

const newNode = ({ identifyOptions, https, services, ...options } = {}) => createLibp2p({
  transports: [tcp(), webSockets({ https }), circuitRelayTransport()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(identifyOptions), ping: ping(), ...services },
  ...options
})

// The default is to hold at most 4 MiB that nobody has read yet.
const messagesOf = stream => lpStream(stream, { maxDataLength: MAX_MESSAGE, maxBufferSize: MAX_MESSAGE + 16 })

// Listening

async function listen (args) {
  const { values: options } = parseArgs({
    args,
    options: {
      handler: { type: 'string' },
      reject: { type: 'boolean' },
      'no-protocol': { type: 'boolean' },
      'delay-ms': { type: 'string', default: '0' },
      'high-limits': { type: 'boolean' },
      ws: { type: 'boolean' },
      certificate: { type: 'string' },
      key: { type: 'string' },
      relay: { type: 'boolean' },
      'via-relay': { type: 'string' },
      punch: { type: 'string' },
      mdns: { type: 'string' }
    }
  })
  const { certificate, key, 'via-relay': viaRelay, punch } = options
  const form = certificate ? '/tls/ws' : options.ws ? '/ws' : ''
  const direct = `/ip4/${options.mdns ?? punch ?? '127.0.0.1'}/tcp/0${form}`
  const node = await newNode({
    addresses: { listen: [...viaRelay ? [`${viaRelay}/p2p-circuit`] : [], ...punch || !viaRelay ? [direct] : []] },
    services: { ...options.relay && { relay: circuitRelayServer() }, ...punch && { dcutr: dcutr() } },
    peerDiscovery: options.mdns ? [mdns()] : [],
    start: false,
    https: certificate && { cert: await readFile(certificate), key: await readFile(key) },
    // The default is five new connections a second from one host.
    connectionManager: options['high-limits'] ? { inboundConnectionThreshold: Infinity } : {}
  })
  if (!options['no-protocol']) {
    const limits = { runOnLimitedConnection: true }
    if (options['high-limits']) {
      limits.maxInboundStreams = HIGH_LIMIT
    }
    const delay = Number(options['delay-ms'])
    await node.handle(REQUEST_PROTOCOL, stream => serveRequest(stream, options.reject, delay), limits)
  }
  // It comes for each peer that is connected, too.
  if (options.mdns) node.addEventListener('peer:discovery', ({ detail: { id, multiaddrs } }) => {
    emit({ event: 'discovered', peer: id.toString(), addresses: multiaddrs.map(String) })
  })
  await node.start()
  let address
  while ((address = node.getMultiaddrs().find(one => !viaRelay || isRelayed(one))) == null) {
    await sleep(10) // until there is a reservation
  }
  emit({ event: 'listening', peer: node.peerId.toString(), address: address.toString() })
  if (punch) node.addEventListener('connection:open', ({ detail: { remotePeer, remoteAddr } }) => {
    if (!isRelayed(remoteAddr)) {
      emit({ event: 'direct', peer: remotePeer.toString(), address: remoteAddr.toString() })
    }
  })
  await finished(process.stdin.resume(), { writable: false })
  await node.stop()
}

const isRelayed = address => address.toString().includes('/p2p-circuit')

async function serveRequest (stream, reject, delay) {
  try {
    const messages = messagesOf(stream)
    const body = await messages.read()
    if (delay > 0) {
      emit({ event: 'request' })
      if (await resetWithin(stream, delay)) {
        emit({ event: 'request_reset' })
        return
      }
    }
    if (!reject) {
      await messages.write(body)
    }
    await stream.close()
  } catch (error) {
    stream.abort(error)
  }
}

/** Tells if the stream was reset before the time was up. */
function resetWithin (stream, delay) {
  if (stream.status === 'reset') {
    return true
  }
  return new Promise(resolve => {
    const timer = setTimeout(resolve, delay, false)
    stream.addEventListener('close', event => {
      if (event.error != null) {
        clearTimeout(timer)
        resolve(true)
      }
    })
  })
}

// Dialing

async function dial ([address, command, ...args]) {
  const commands = {
    ping: dialPing, identify: dialIdentify, request: dialRequest, burst: dialBurst, large: dialLarge, cancel: dialCancel,
    punch: dialPunch
  }
  if (commands[command] == null) {
    throw new UsageError()
  }
  // The library identifies each connection by itself, and allows one such stream at a time.
  const node = await newNode({
    identifyOptions: { runOnConnectionOpen: command !== 'identify' },
    ...command === 'punch' && { addresses: { listen: [`/ip4/${args[0]}/tcp/0`] }, services: { dcutr: dcutr() } }
  })
  const connection = await node.dial(multiaddr(address), { signal: AbortSignal.timeout(DIAL_TIMEOUT) })
  await commands[command](connection, args, node.services, node)
}

async function dialPing (connection, [count = '1'], services) {
  for (let i = 0; i < Number(count); i++) {
    emit({ rtt_ms: await services.ping.ping(connection.remotePeer) })
  }
}

/** Waits for the direct connection that follows, and pings over it: the library allows that on no other. */
async function dialPunch ({ remotePeer }, _, services, node) {
  let direct
  while ((direct = node.getConnections(remotePeer).find(one => one.limits == null)) == null) {
    await sleep(10)
  }
  await services.ping.ping(remotePeer)
  emit({ direct: direct.remoteAddr.toString() })
}

async function dialIdentify (connection, _, services) {
  const told = await services.identify.identify(connection)
  emit({
    agent: told.agentVersion ?? null,
    protocols: told.protocols,
    listen_addrs: told.listenAddrs.map(String),
    observed_addr: told.observedAddr?.toString() ?? null,
    signed_record: told.signedPeerRecord != null
  })
}

async function dialRequest (connection, [file]) {
  const body = await readFile(file === '-' ? '/dev/stdin' : file)
  let response
  try {
    response = await request(connection, body)
  } catch (error) {
    const outcome = outcomes[error.name]
    if (outcome == null) {
      throw error
    }
    emit({ outcome })
    return
  }
  emit({ response: JSON.parse(response) })
}

async function dialBurst (connection, args) {
  const { values: options, positionals: [text] } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      size: { type: 'string', default: '64' },
      concurrency: { type: 'string', default: 'all' }
    }
  })
  const count = Number(text)
  const atOnce = options.concurrency === 'all' ? count : Number(options.concurrency)
  let next = 0
  let ok = 0
  const failures = {}
  await Promise.all(Array.from({ length: atOnce }, async () => {
    while (next < count) {
      try {
        await roundTrip(connection, jsonString(next++, Number(options.size)))
        ok++
      } catch (error) {
        const kind = outcomes[error.name] ?? error.message
        failures[kind] = (failures[kind] ?? 0) + 1
      }
    }
  }))
  if (ok < count) {
    throw new Failures(ok, failures)
  }
  emit({ ok })
}

async function dialLarge (connection, [size]) {
  const start = performance.now()
  await roundTrip(connection, jsonString(0, Number(size)))
  emit({ ok: true, seconds: (performance.now() - start) / 1000 })
}

async function dialCancel (connection, [delay = '0']) {
  const stream = await connection.newStream(REQUEST_PROTOCOL)
  await messagesOf(stream).write(jsonString(0, 64))
  await sleep(Number(delay))
  stream.abort(new Error('cancelled'))
  await roundTrip(connection, jsonString(1, 64))
  emit({ ok: true })
}

// Requests

class NoResponseError extends Error {
  name = 'NoResponseError'
}

/** What a requester is told apart from an answer, by the name of the error. */
const outcomes = {
  NoResponseError: 'no_response',
  UnsupportedProtocolError: 'not_supported',
  StreamResetError: 'reset'
}

async function roundTrip (connection, body) {
  const response = await request(connection, body)
  if (!response.equals(body)) {
    throw new Error('mismatch')
  }
}

async function request (connection, body) {
  const signal = AbortSignal.timeout(DIAL_TIMEOUT)
  const stream = await connection.newStream(REQUEST_PROTOCOL, { signal, runOnLimitedConnection: true })
  let answered = false
  stream.addEventListener('message', () => { answered = true }, { once: true })
  try {
    const messages = messagesOf(stream)
    const send = async () => {
      await messages.write(body, { signal })
      await stream.close({ signal })
    }
    const [response] = await Promise.all([messages.read({ signal }), send()])
    return Buffer.from(response.subarray())
  } catch (thrown) {
    // A write that waits for the window throws the stream's close event.
    const error = thrown instanceof Error ? thrown : thrown.error ?? new Error('the stream was closed')
    if (error.name === 'UnexpectedEOFError' && !answered && connection.status === 'open') {
      throw new NoResponseError('no response')
    }
    stream.abort(error)
    throw error
  }
}

/** A JSON string of size bytes, quotes included, that tells i. */
function jsonString (i, size) {
  const text = `${i}:`
  return Buffer.from(`"${text}${'x'.repeat(Math.max(0, size - text.length - 2))}"`)
}

const [mode, ...args] = process.argv.slice(2)
try {
  const run = { listen, dial }[mode]
  if (run == null) {
    throw new UsageError()
  }
  await run(args)
} catch (error) {
  if (error instanceof UsageError) {
    console.error('usage: peer listen [OPTION]... | peer dial ADDRESS COMMAND [ARGUMENT]...')
    process.exit(2)
  }
  emit({ error: error.message || error.name || String(error), ok: error.ok, failures: error.failures })
  process.exit(1)
}
process.exit(0)
