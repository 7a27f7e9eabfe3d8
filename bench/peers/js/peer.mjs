// The js-libp2p side of the benchmark. See bench/README.md for its command line.
import { readFileSync } from 'node:fs'
import { finished } from 'node:stream/promises'
import { parseArgs } from 'node:util'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { tcp } from '@libp2p/tcp'
import { lpStream } from '@libp2p/utils'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const PROTOCOLS = { json: '/stronghold-p2p/1.0.0', raw: '/stronghold-p2p/raw/1.0.0' }
const MAX_MESSAGE = 17 * 2 ** 20
const MAX_STREAMS = 4096
const WARM_UP = 0.2

const emit = line => console.log(JSON.stringify(line))

const newNode = options => createLibp2p({
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify() },
  ...options
})

const messagesOf = stream => lpStream(stream, { maxDataLength: MAX_MESSAGE, maxBufferSize: MAX_MESSAGE + 16 })

// Serving

async function serve () {
  const node = await newNode({
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
    // The default is five new connections a second from one host.
    connectionManager: { inboundConnectionThreshold: Infinity }
  })
  const again = body => Buffer.from(JSON.stringify(JSON.parse(Buffer.from(body.subarray()).toString())))
  const limits = { maxInboundStreams: MAX_STREAMS }
  await node.handle(PROTOCOLS.json, stream => answer(stream, again), limits)
  await node.handle(PROTOCOLS.raw, stream => answer(stream, body => body), limits)
  emit({ address: node.getMultiaddrs()[0].toString() })
  await finished(process.stdin.resume(), { writable: false })
  await node.stop()
}

async function answer (stream, handle) {
  try {
    const messages = messagesOf(stream)
    await messages.write(handle(await messages.read()))
    await stream.close()
  } catch (error) {
    stream.abort(error)
  }
}

// Measuring

/** A function that sends a body; its first call connects. */
function requester (node, address, format) {
  let connecting
  const encode = format === 'json' ? text => Buffer.from(JSON.stringify(text)) : body => body
  const decode = format === 'json' ? body => JSON.parse(Buffer.from(body.subarray()).toString()) : body => body.subarray()
  return async body => {
    connecting ??= node.dial(multiaddr(address))
    const stream = await (await connecting).newStream(PROTOCOLS[format], { maxOutboundStreams: MAX_STREAMS })
    const messages = messagesOf(stream)
    await messages.write(encode(body))
    const response = decode(await messages.read())
    await stream.close()
    if (response.length !== body.length) {
      throw new Error('the response is not the request\'s body')
    }
  }
}

async function measure ([address, ...args]) {
  const { values: options } = parseArgs({
    args,
    options: {
      size: { type: 'string', default: '64' },
      concurrency: { type: 'string', default: '32' },
      seconds: { type: 'string', default: '2' },
      format: { type: 'string', default: 'json' }
    }
  })
  const size = Number(options.size)
  const seconds = Number(options.seconds)
  const body = options.format === 'json' ? 'x'.repeat(size - 2) : Buffer.alloc(size)
  const node = await newNode()
  const request = requester(node, address, options.format)
  const start = performance.now()
  await request(body)
  const connected = performance.now() - start
  await load(request, body, Number(options.concurrency), seconds * WARM_UP)
  emit({ measuring: true })
  const { latencies, elapsed } = await load(request, body, Number(options.concurrency), seconds)
  latencies.sort((a, b) => a - b)
  const rate = latencies.length / elapsed
  emit({
    requests_per_second: Math.round(rate),
    p50_us: percentile(latencies, 0.5),
    p99_us: percentile(latencies, 0.99),
    mb_per_second: 2 * size * rate / 1e6,
    connect_ms: connected
  })
}

/** Keeps so many requests in flight; gives the milliseconds that each took, and the seconds that all took. */
async function load (request, body, concurrency, seconds) {
  const latencies = []
  const start = performance.now()
  const end = start + seconds * 1000
  await Promise.all(Array.from({ length: concurrency }, async () => {
    for (let now = start; now < end;) {
      const sent = performance.now()
      await request(body)
      now = performance.now()
      latencies.push(now - sent)
    }
  }))
  return { latencies, elapsed: (performance.now() - start) / 1000 }
}

/** In microseconds, by the nearest rank. */
const percentile = (sorted, share) => Math.round(sorted[Math.ceil(share * sorted.length) - 1] * 1000)

async function connect ([address, ...args]) {
  const { values: { count } } = parseArgs({ args, options: { count: { type: 'string', default: '20' } } })
  const times = []
  for (let i = 0; i < Number(count); i++) {
    const node = await newNode()
    const request = requester(node, address, 'json')
    const start = performance.now()
    await request('x'.repeat(62))
    times.push(performance.now() - start)
    await node.stop()
  }
  const median = [...times].sort((a, b) => a - b)[times.length >> 1]
  emit({ first_ms: times[0], connect_ms_median: median, connect_ms: times })
}

function version () {
  const { dependencies } = JSON.parse(readFileSync(new URL('package.json', import.meta.url)))
  emit({ 'js-libp2p': dependencies.libp2p, node: process.versions.node })
}

const [command, ...args] = process.argv.slice(2)
const run = { serve, measure, connect, version }[command]
if (run == null) {
  console.error('usage: peer.mjs serve | measure ADDRESS | connect ADDRESS | version')
  process.exit(2)
}
await run(args)
process.exit(0)
