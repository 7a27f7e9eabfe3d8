//! The rust-libp2p side of the benchmark. See bench/README.md for its command line.

use std::{
    collections::HashMap,
    error::Error,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    stream::StreamExt,
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, multiaddr, noise, relay,
    request_response::{self, Message, ProtocolSupport},
    swarm::SwarmEvent,
    tcp, yamux,
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

const JSON_PROTOCOL: StreamProtocol = StreamProtocol::new("/stronghold-p2p/1.0.0");
const RAW_PROTOCOL: StreamProtocol = StreamProtocol::new("/stronghold-p2p/raw/1.0.0");
const MAX_MESSAGE: usize = 17 << 20;
const WARM_UP: f64 = 0.2;
const DIALS_AT_ONCE: usize = 32;
const TIMEOUT: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["serve" | "many-serve"] => serve().await,
        ["relay"] => relay_circuits().await,
        ["measure", address, options @ ..] => measure(address, options).await,
        ["connect", address, options @ ..] => connect(address, options).await,
        ["many", address, options @ ..] => measure_many(address, options).await,
        ["version"] => {
            println!("{}", json!({"rust-libp2p": "0.57.1"}));
            Ok(())
        }
        _ => Err("usage: peer serve | relay | measure ADDRESS | connect ADDRESS | many-serve | many ADDRESS | version".into()),
    }
}

// The node

type Requests = request_response::Behaviour<Exchange>;
type Event = SwarmEvent<request_response::Event<Vec<u8>, Vec<u8>>>;

fn new_swarm(protocols: &[StreamProtocol], support: ProtocolSupport) -> Result<Swarm<Requests>> {
    let protocols: Vec<_> = protocols.iter().map(|protocol| (protocol.clone(), support.clone())).collect();
    let config = request_response::Config::default().with_request_timeout(TIMEOUT);
    Ok(SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
        .with_behaviour(|_| Requests::new(protocols, config))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(TIMEOUT))
        .build())
}

/// One message each way: its length as an unsigned varint, then its bytes.
#[derive(Clone, Default)]
struct Exchange;

impl request_response::Codec for Exchange {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, protocol: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let body = read_message(io).await?;
        // What the handler does: the body is decoded and encoded anew.
        if *protocol == JSON_PROTOCOL { Ok(serde_json::to_vec(&serde_json::from_slice::<Value>(&body)?)?) } else { Ok(body) }
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_message(io).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, body: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_message(io, body).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, body: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_message(io, body).await
    }
}

/// The length and the body in one write, which is one frame.
async fn write_message(io: &mut (impl AsyncWrite + Unpin), body: Vec<u8>) -> io::Result<()> {
    let mut length = unsigned_varint::encode::usize_buffer();
    let length = unsigned_varint::encode::usize(body.len(), &mut length);
    io.write_all(&[length, &body].concat()).await
}

async fn read_message(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = unsigned_varint::aio::read_usize(&mut *io).await.map_err(io::Error::other)?;
    if length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    io.read_exact(&mut body).await?;
    Ok(body)
}

// Serving

async fn serve() -> Result<()> {
    let mut swarm = new_swarm(&[JSON_PROTOCOL, RAW_PROTOCOL], ProtocolSupport::Inbound)?;
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    let mut stdin = std::pin::pin!(wait_for_end_of_stdin());
    loop {
        tokio::select! {
            _ = &mut stdin => return Ok(()),
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { address, .. } => {
                    println!("{}", json!({"address": address.with(multiaddr::Protocol::P2p(*swarm.local_peer_id()))}));
                }
                SwarmEvent::Behaviour(request_response::Event::Message {
                    message: Message::Request { request, channel, .. },
                    ..
                }) => {
                    // An error is a connection that is gone.
                    let _ = swarm.behaviour_mut().send_response(channel, request);
                }
                _ => {}
            }
        }
    }
}

/// Without limits of a circuit, so that none is what is measured.
async fn relay_circuits() -> Result<()> {
    let config = relay::Config { max_circuit_bytes: 0, max_circuit_duration: DAY, ..Default::default() };
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
        .with_behaviour(|key| relay::Behaviour::new(key.public().to_peer_id(), config))?
        .with_swarm_config(|config| config.with_idle_connection_timeout(TIMEOUT))
        .build();
    swarm.behaviour_mut().set_status(Some(relay::Status::Enable));
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse()?)?;
    let mut stdin = std::pin::pin!(wait_for_end_of_stdin());
    loop {
        tokio::select! {
            _ = &mut stdin => return Ok(()),
            event = swarm.select_next_some() => if let SwarmEvent::NewListenAddr { address, .. } = event {
                swarm.add_external_address(address.clone());
                println!("{}", json!({"address": address.with(multiaddr::Protocol::P2p(*swarm.local_peer_id()))}));
            }
        }
    }
}

async fn wait_for_end_of_stdin() {
    let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
}

// Measuring

struct Dialer {
    swarm: Swarm<Requests>,
    remote: PeerId,
    address: Multiaddr,
}

impl Dialer {
    fn new(address: &str, protocol: StreamProtocol) -> Result<Self> {
        let address: Multiaddr = address.parse()?;
        let Some(multiaddr::Protocol::P2p(remote)) = address.iter().last() else {
            return Err("the address has no /p2p".into());
        };
        Ok(Self { swarm: new_swarm(&[protocol], ProtocolSupport::Outbound)?, remote, address })
    }

    /// Keeps so many requests in flight for a time, one at least; gives the time that each took and that all took.
    async fn load(&mut self, body: &Body, in_flight: usize, time: Duration) -> Result<(Vec<Duration>, Duration)> {
        let mut latencies = Vec::new();
        let mut sent = HashMap::new();
        let start = Instant::now();
        for _ in 0..in_flight {
            self.send(body, &mut sent)?;
        }
        while !sent.is_empty() {
            let event: Event = self.swarm.select_next_some().await;
            match event {
                SwarmEvent::Behaviour(request_response::Event::Message {
                    message: Message::Response { request_id, response },
                    ..
                }) => {
                    body.check(&response)?;
                    latencies.push(sent.remove(&request_id).ok_or("an answer to no request")?.elapsed());
                    if start.elapsed() < time {
                        self.send(body, &mut sent)?;
                    }
                }
                SwarmEvent::Behaviour(request_response::Event::OutboundFailure { error, .. }) => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        Ok((latencies, start.elapsed()))
    }

    fn send(&mut self, body: &Body, sent: &mut HashMap<request_response::OutboundRequestId, Instant>) -> Result<()> {
        let now = Instant::now();
        let requests = self.swarm.behaviour_mut();
        let id = requests.send_request_with_addresses(&self.remote, body.encode()?, vec![self.address.clone()]);
        sent.insert(id, now);
        Ok(())
    }
}

enum Body {
    Json(String),
    Raw(Vec<u8>),
}

impl Body {
    fn new(format: &str, size: usize) -> Self {
        if format == "raw" { Self::Raw(vec![0; size]) } else { Self::Json("x".repeat(size - 2)) }
    }

    fn protocol(&self) -> StreamProtocol {
        match self {
            Self::Json(_) => JSON_PROTOCOL,
            Self::Raw(_) => RAW_PROTOCOL,
        }
    }

    fn encode(&self) -> Result<Vec<u8>> {
        match self {
            Self::Json(text) => Ok(serde_json::to_vec(text)?),
            Self::Raw(body) => Ok(body.clone()),
        }
    }

    fn check(&self, response: &[u8]) -> Result<()> {
        let same = match self {
            Self::Json(text) => serde_json::from_slice::<String>(response)?.len() == text.len(),
            Self::Raw(body) => response.len() == body.len(),
        };
        if same { Ok(()) } else { Err("the response is not the request's body".into()) }
    }
}

async fn measure(address: &str, options: &[&str]) -> Result<()> {
    let (mut size, mut concurrency, mut seconds, mut format) = (64, 32, 2.0, "json");
    for option in options.chunks(2) {
        match option {
            ["--size", value] => size = value.parse()?,
            ["--concurrency", value] => concurrency = value.parse()?,
            ["--seconds", value] => seconds = value.parse()?,
            ["--format", value] => format = value,
            _ => return Err(format!("unknown option: {option:?}").into()),
        }
    }
    let body = Body::new(format, size);
    let mut dialer = Dialer::new(address, body.protocol())?;
    let (_, connected) = dialer.load(&body, 1, Duration::ZERO).await?;
    dialer.load(&body, concurrency, Duration::from_secs_f64(seconds * WARM_UP)).await?;
    println!("{}", json!({"measuring": true}));
    let (latencies, elapsed) = dialer.load(&body, concurrency, Duration::from_secs_f64(seconds)).await?;
    let mut figures = figures_of(latencies, elapsed, size);
    figures["connect_ms"] = milliseconds(connected).into();
    println!("{figures}");
    Ok(())
}

/// So many nodes, all connected before the load begins, and so many requests of 64 bytes in flight from each.
async fn measure_many(address: &str, options: &[&str]) -> Result<()> {
    let (mut peers, mut each, mut seconds) = (1000, 1, 2.0);
    for option in options.chunks(2) {
        match option {
            ["--peers", value] => peers = value.parse()?,
            ["--each", value] => each = value.parse()?,
            ["--seconds", value] => seconds = value.parse()?,
            _ => return Err(format!("unknown option: {option:?}").into()),
        }
    }
    let dialers = (0..peers).map(|_| Dialer::new(address, JSON_PROTOCOL)).collect::<Result<Vec<_>>>()?;
    let turns = Arc::new(Semaphore::new(DIALS_AT_ONCE));
    let start = Instant::now();
    let (dialers, _) = load_all(dialers, move |mut dialer| {
        let turns = turns.clone();
        async move {
            let _turn = turns.acquire().await?;
            dialer.load(&Body::new("json", 64), 1, Duration::ZERO).await?;
            Ok((dialer, Vec::new()))
        }
    })
    .await?;
    let connected = start.elapsed();
    let load_for = |time: Duration| {
        move |mut dialer: Dialer| async move {
            let (latencies, _) = dialer.load(&Body::new("json", 64), each, time).await?;
            Ok((dialer, latencies))
        }
    };
    let (dialers, _) = load_all(dialers, load_for(Duration::from_secs_f64(seconds * WARM_UP))).await?;
    println!("{}", json!({"measuring": true}));
    let start = Instant::now();
    let (_dialers, latencies) = load_all(dialers, load_for(Duration::from_secs_f64(seconds))).await?;
    let mut figures = figures_of(latencies, start.elapsed(), 64);
    figures["connect_all_ms"] = milliseconds(connected).into();
    println!("{figures}");
    Ok(())
}

/// Each node does the work, in a task of its own; gives them back, with the times of all.
async fn load_all<F>(dialers: Vec<Dialer>, work: impl Fn(Dialer) -> F) -> Result<(Vec<Dialer>, Vec<Duration>)>
where
    F: Future<Output = Result<(Dialer, Vec<Duration>)>> + Send + 'static,
{
    let tasks: Vec<_> = dialers.into_iter().map(|dialer| tokio::spawn(work(dialer))).collect();
    let (mut dialers, mut latencies) = (Vec::new(), Vec::new());
    for task in tasks {
        let (dialer, own) = task.await??;
        dialers.push(dialer);
        latencies.extend(own);
    }
    Ok((dialers, latencies))
}

fn figures_of(mut latencies: Vec<Duration>, elapsed: Duration, size: usize) -> Value {
    latencies.sort_unstable();
    let rate = latencies.len() as f64 / elapsed.as_secs_f64();
    json!({
        "requests_per_second": rate.round() as u64,
        "p50_us": percentile(&latencies, 0.50).as_micros() as u64,
        "p99_us": percentile(&latencies, 0.99).as_micros() as u64,
        "mb_per_second": 2.0 * size as f64 * rate / 1e6,
    })
}

async fn connect(address: &str, options: &[&str]) -> Result<()> {
    let count: usize = match options {
        [] => 20,
        ["--count", value] => value.parse()?,
        _ => return Err(format!("unknown options: {options:?}").into()),
    };
    let body = Body::new("json", 64);
    let mut times = Vec::new();
    for _ in 0..count {
        let mut dialer = Dialer::new(address, body.protocol())?;
        let (_, connected) = dialer.load(&body, 1, Duration::ZERO).await?;
        times.push(milliseconds(connected));
    }
    let mut sorted = times.clone();
    sorted.sort_by(f64::total_cmp);
    println!(
        "{}",
        json!({"first_ms": times[0], "connect_ms_median": sorted[sorted.len() / 2], "connect_ms": times})
    );
    Ok(())
}

/// By the nearest rank.
fn percentile(sorted: &[Duration], share: f64) -> Duration {
    sorted[((share * sorted.len() as f64).ceil() as usize).max(1) - 1]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
