//! A rust-libp2p peer to test against. See interop/README.md for its command line.

mod autonat;

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    io,
    time::{Duration, Instant},
};

use futures::{
    future::FutureExt,
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    stream::{FuturesUnordered, StreamExt},
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, dcutr, identify, identity, mdns,
    multiaddr::Protocol,
    noise, ping, relay,
    request_response::{self, InboundFailure, Message, OutboundFailure, ProtocolSupport, ResponseChannel},
    swarm::{NetworkBehaviour, SwarmEvent, behaviour::toggle::Toggle},
    tcp, yamux,
};
use serde_json::{Value, json};

const REQUEST_PROTOCOL: StreamProtocol = StreamProtocol::new("/stronghold-p2p/1.0.0");
const MAX_MESSAGE: usize = 17 << 20;
const DIAL_TIMEOUT: Duration = Duration::from_secs(60);

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["listen", options @ ..] => listen(options).await,
        ["dial", address, command, rest @ ..] => {
            match tokio::time::timeout(DIAL_TIMEOUT, dial(address, command, rest)).await {
                Ok(done) => done,
                Err(_) => Err("time is up".into()),
            }
        }
        ["autonat", ip, servers @ ..] => autonat::autonat(ip, servers).await,
        _ => Err(usage()),
    };
    if let Err(error) = done {
        match error.downcast::<Failures>() {
            Ok(failures) => emit(json!({"error": "requests failed", "ok": failures.ok, "failures": failures.kinds})),
            Err(error) => emit(json!({"error": error.to_string()})),
        }
        std::process::exit(1);
    }
}

fn usage() -> Box<dyn Error> {
    "usage: peer listen [OPTION]... | peer dial ADDRESS COMMAND [ARGUMENT]... | peer autonat IP [SERVER]...".into()
}

fn emit(line: Value) {
    println!("{line}");
}

// The node

#[derive(NetworkBehaviour)]
struct Behaviour {
    dcutr: Toggle<dcutr::Behaviour>,
    identify: identify::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    ping: ping::Behaviour,
    relay: Toggle<relay::Behaviour>,
    relay_client: relay::client::Behaviour,
    request: request_response::Behaviour<Exchange>,
}

struct Setup {
    support: ProtocolSupport,
    ping: ping::Config,
    /// Streams that request-response serves at once, and streams that Yamux allows at once; `None` is the default.
    streams: Option<(usize, usize)>,
    mdns: bool,
    relay: bool,
    punch: bool,
}

impl Setup {
    fn new(support: ProtocolSupport) -> Self {
        Self { support, ping: ping::Config::default(), streams: None, mdns: false, relay: false, punch: false }
    }
}

async fn new_swarm(setup: Setup) -> Result<Swarm<Behaviour>> {
    let mut requests = request_response::Config::default().with_request_timeout(DIAL_TIMEOUT);
    let mut muxer = yamux::Config::default();
    if let Some((served, open)) = setup.streams {
        requests = requests.with_max_concurrent_streams(served);
        muxer.set_max_num_streams(open);
    }
    Ok(SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, || muxer.clone())?
        .with_websocket(noise::Config::new, || muxer.clone())
        .await?
        .with_relay_client(noise::Config::new, || muxer)?
        .with_behaviour(|key: &identity::Keypair, relay_client| {
            let peer = key.public().to_peer_id();
            let mdns = setup.mdns.then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), peer)).transpose()?;
            Ok(Behaviour {
                dcutr: setup.punch.then(|| dcutr::Behaviour::new(peer)).into(),
                identify: identify::Behaviour::new(identify::Config::new_with_signed_peer_record(
                    "interop/1.0.0".into(),
                    key,
                )),
                mdns: mdns.into(),
                ping: ping::Behaviour::new(setup.ping),
                relay: setup.relay.then(|| relay::Behaviour::new(peer, relay::Config::default())).into(),
                relay_client,
                request: request_response::Behaviour::new([(REQUEST_PROTOCOL, setup.support)], requests),
            })
        })?
        .build())
}

/// One message each way: its length as an unsigned varint, then its bytes.
#[derive(Clone, Default)]
struct Exchange;

#[derive(Debug)]
struct Request {
    body: Vec<u8>,
    /// Fail so long after the request has been written, which makes request-response drop, and so reset, the stream.
    cancel_after: Option<Duration>,
}

impl Request {
    fn new(body: Vec<u8>) -> Self {
        Self { body, cancel_after: None }
    }
}

impl request_response::Codec for Exchange {
    type Protocol = StreamProtocol;
    type Request = Request;
    /// `None` is a stream that was closed without a byte.
    type Response = Option<Vec<u8>>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        let body = read_message(io).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(Request::new(body))
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Option<Vec<u8>>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_message(io).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Request) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_message(io, &request.body).await?;
        if let Some(delay) = request.cancel_after {
            io.flush().await?;
            tokio::time::sleep(delay).await;
            return Err(io::Error::other("cancelled"));
        }
        Ok(())
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, body: Option<Vec<u8>>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_message(io, &body.unwrap_or_default()).await
    }
}

async fn write_message(io: &mut (impl AsyncWrite + Unpin), body: &[u8]) -> io::Result<()> {
    let mut length = unsigned_varint::encode::usize_buffer();
    io.write_all(unsigned_varint::encode::usize(body.len(), &mut length)).await?;
    io.write_all(body).await
}

async fn read_message(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut first = [0];
    if io.read(&mut first).await? == 0 {
        return Ok(None);
    }
    let length = unsigned_varint::aio::read_usize((&first[..]).chain(&mut *io)).await.map_err(io::Error::other)?;
    if length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    io.read_exact(&mut body).await?;
    Ok(Some(body))
}

// Listening

async fn listen(options: &[&str]) -> Result<()> {
    let (mut reject, mut delay, mut setup) = (false, Duration::ZERO, Setup::new(ProtocolSupport::Full));
    let (mut ip, mut form, mut via_relay) = ("127.0.0.1", "", None);
    let mut options = options.iter();
    while let Some(option) = options.next() {
        match *option {
            "--handler" => drop(options.next()),
            "--reject" => reject = true,
            "--no-protocol" => setup.support = ProtocolSupport::Outbound,
            "--delay-ms" => delay = Duration::from_millis(options.next().ok_or_else(usage)?.parse()?),
            // 4,096 windows of 256 KiB are all that Yamux's limit on a connection's receive window has room for.
            "--high-limits" => setup.streams = Some((4096, 4096)),
            "--ws" => form = "/ws",
            "--relay" => setup.relay = true,
            "--via-relay" => via_relay = Some(options.next().ok_or_else(usage)?.parse::<Multiaddr>()?),
            "--punch" => (ip, setup.punch) = (options.next().ok_or_else(usage)?, true),
            "--mdns" => (ip, setup.mdns) = (options.next().ok_or_else(usage)?, true),
            _ => return Err(usage()),
        }
    }
    let (is_relay, punches) = (setup.relay, setup.punch);
    let mut swarm = new_swarm(setup).await?;
    swarm.listen_on(format!("/ip4/{ip}/tcp/0{form}").parse()?)?;
    if let Some(relay) = &via_relay {
        meet_relay(&mut swarm, relay).await?;
        swarm.listen_on(relay.clone().with(Protocol::P2pCircuit))?;
    }
    let mut delayed = FuturesUnordered::new();
    let mut stdin = std::pin::pin!(wait_for_end_of_stdin());
    loop {
        tokio::select! {
            _ = &mut stdin => return Ok(()),
            Some((body, channel)) = delayed.next() => answer(&mut swarm, reject, body, channel),
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { address, .. } if is_relayed(&address) == via_relay.is_some() => {
                    if is_relay {
                        swarm.add_external_address(address.clone());
                    }
                    let peer = *swarm.local_peer_id();
                    let address = address.with_p2p(peer).expect("our own address");
                    emit(json!({"event": "listening", "peer": peer.to_string(), "address": address.to_string()}));
                }
                SwarmEvent::ListenerClosed { reason: Err(error), .. } => return Err(error.into()),
                SwarmEvent::ConnectionEstablished { peer_id, endpoint, .. } if punches && !endpoint.is_relayed() => {
                    emit(json!({
                        "event": "direct",
                        "peer": peer_id.to_string(),
                        "address": endpoint.get_remote_address().to_string(),
                    }));
                }
                SwarmEvent::Behaviour(BehaviourEvent::Mdns(mdns::Event::Discovered(found))) => {
                    for (peer, address) in found {
                        emit(json!({
                            "event": "discovered", "peer": peer.to_string(), "addresses": [address.to_string()],
                        }));
                    }
                }
                SwarmEvent::Behaviour(BehaviourEvent::Request(request_response::Event::Message {
                    message: Message::Request { request, channel, .. },
                    ..
                })) => {
                    if delay.is_zero() {
                        answer(&mut swarm, reject, request.body, channel);
                    } else {
                        emit(json!({"event": "request"}));
                        delayed.push(tokio::time::sleep(delay).map(move |()| (request.body, channel)));
                    }
                }
                // Yamux tells of a reset only to who writes: this comes after the delay.
                SwarmEvent::Behaviour(BehaviourEvent::Request(request_response::Event::InboundFailure {
                    error: InboundFailure::Io(_),
                    ..
                })) if !delay.is_zero() => emit(json!({"event": "request_reset"})),
                _ => {}
            }
        }
    }
}

fn answer(swarm: &mut Swarm<Behaviour>, reject: bool, body: Vec<u8>, channel: ResponseChannel<Option<Vec<u8>>>) {
    if !reject {
        // An error is a connection that is gone.
        let _ = swarm.behaviour_mut().request.send_response(channel, Some(body));
    }
}

/// Connects to a relay, once we listen, so as to learn from it at which address it sees our port.
async fn meet_relay(swarm: &mut Swarm<Behaviour>, address: &Multiaddr) -> Result<()> {
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { .. } => swarm.dial(address.clone())?,
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.into()),
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received { .. })) => return Ok(()),
            _ => {}
        }
    }
}

fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|protocol| protocol == Protocol::P2pCircuit)
}

async fn wait_for_end_of_stdin() {
    let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await;
}

// Dialing

/// How many of a burst's requests succeeded, and how many failed in which way.
#[derive(Debug)]
struct Failures {
    ok: usize,
    kinds: BTreeMap<String, usize>,
}

impl std::fmt::Display for Failures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.kinds)
    }
}

impl Error for Failures {}

async fn dial(address: &str, command: &str, arguments: &[&str]) -> Result<()> {
    let address: Multiaddr = address.parse()?;
    let Some(Protocol::P2p(remote)) = address.iter().last() else {
        return Err("the address has no /p2p".into());
    };
    let mut setup = Setup::new(ProtocolSupport::Outbound);
    if let "ping" | "punch" = command {
        setup.ping = setup.ping.with_interval(Duration::from_millis(50));
    }
    setup.punch = command == "punch";
    let swarm = new_swarm(setup).await?;
    let mut dialer = Dialer { swarm, remote, address };
    match (command, arguments) {
        ("ping", []) => dialer.ping(1).await,
        ("ping", [count]) => dialer.ping(count.parse()?).await,
        ("identify", []) => dialer.identify().await,
        ("request", [file]) => dialer.request(file).await,
        ("burst", [count, options @ ..]) => dialer.burst(count.parse()?, options).await,
        ("large", [size]) => dialer.large(size.parse()?).await,
        ("cancel", []) => dialer.cancel(0).await,
        ("cancel", [delay]) => dialer.cancel(delay.parse()?).await,
        ("punch", [ip]) => dialer.punch(ip).await,
        _ => Err(usage()),
    }
}

struct Dialer {
    swarm: Swarm<Behaviour>,
    remote: PeerId,
    address: Multiaddr,
}

impl Dialer {
    async fn ping(&mut self, count: usize) -> Result<()> {
        self.swarm.dial(self.address.clone())?;
        let mut done = 0;
        while done < count {
            if let BehaviourEvent::Ping(ping::Event { peer, result, .. }) = self.next_event().await?
                && peer == self.remote
            {
                emit(json!({"rtt_ms": result?.as_secs_f64() * 1000.0}));
                done += 1;
            }
        }
        Ok(())
    }

    async fn identify(&mut self) -> Result<()> {
        self.swarm.dial(self.address.clone())?;
        loop {
            match self.next_event().await? {
                BehaviourEvent::Identify(identify::Event::Received { peer_id, info, .. }) if peer_id == self.remote => {
                    emit(json!({
                        "agent": info.agent_version,
                        "protocols": info.protocols.iter().map(ToString::to_string).collect::<Vec<_>>(),
                        "listen_addrs": info.listen_addrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
                        "observed_addr": info.observed_addr.to_string(),
                        "signed_record": info.signed_peer_record.is_some(),
                    }));
                    return Ok(());
                }
                BehaviourEvent::Identify(identify::Event::Error { error, .. }) => return Err(error.into()),
                _ => {}
            }
        }
    }

    async fn request(&mut self, file: &str) -> Result<()> {
        let body = if file == "-" { io::read_to_string(io::stdin())?.into_bytes() } else { std::fs::read(file)? };
        match self.exchange(vec![Request::new(body)], 1).await?.remove(0) {
            Ok(Some(body)) => emit(json!({"response": serde_json::from_slice::<Value>(&body)?})),
            other => match outcome(&other) {
                Some(outcome) => emit(json!({"outcome": outcome})),
                None => other.map(drop)?,
            },
        }
        Ok(())
    }

    async fn burst(&mut self, count: usize, options: &[&str]) -> Result<()> {
        let (mut size, mut at_once) = (64, count);
        for option in options.chunks(2) {
            match option {
                ["--size", value] => size = value.parse()?,
                ["--concurrency", "all"] => {}
                ["--concurrency", value] => at_once = value.parse()?,
                _ => return Err(usage()),
            }
        }
        let ok = self.round_trips(count, size, at_once).await?;
        emit(json!({"ok": ok}));
        Ok(())
    }

    async fn large(&mut self, size: usize) -> Result<()> {
        let start = Instant::now();
        self.round_trips(1, size, 1).await?;
        emit(json!({"ok": true, "seconds": start.elapsed().as_secs_f64()}));
        Ok(())
    }

    async fn cancel(&mut self, delay_ms: u64) -> Result<()> {
        let cancelled = Request { body: json_string(0, 64), cancel_after: Some(Duration::from_millis(delay_ms)) };
        match self.exchange(vec![cancelled], 1).await?.remove(0) {
            Err(OutboundFailure::Io(_)) => {}
            other => return Err(format!("not cancelled: {other:?}").into()),
        }
        if !self.swarm.is_connected(&self.remote) {
            return Err("the connection is gone".into());
        }
        self.round_trips(1, 64, 1).await?;
        emit(json!({"ok": true}));
        Ok(())
    }

    /// Dials a circuit from a port at which it listens, and pings over the direct connection that follows.
    async fn punch(&mut self, ip: &str) -> Result<()> {
        let relay = self.address.iter().take_while(|protocol| *protocol != Protocol::P2pCircuit).collect();
        self.swarm.listen_on(format!("/ip4/{ip}/tcp/0").parse()?)?;
        meet_relay(&mut self.swarm, &relay).await?;
        self.swarm.dial(self.address.clone())?;
        let mut direct = None;
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. }
                    if peer_id == self.remote && !endpoint.is_relayed() =>
                {
                    direct = Some((connection_id, endpoint.get_remote_address().to_string()));
                }
                SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event { connection, result: Ok(_), .. })) => {
                    if let Some((_, address)) = direct.take_if(|(id, _)| *id == connection) {
                        emit(json!({"direct": address}));
                        return Ok(());
                    }
                }
                SwarmEvent::Behaviour(BehaviourEvent::Dcutr(dcutr::Event { result, .. })) => drop(result?),
                SwarmEvent::OutgoingConnectionError { peer_id: Some(peer), error, .. } if peer != self.remote => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
    }

    async fn round_trips(&mut self, count: usize, size: usize, at_once: usize) -> Result<usize> {
        let requests = (0..count).map(|i| Request::new(json_string(i, size))).collect();
        let mut failures = Failures { ok: 0, kinds: BTreeMap::new() };
        for (i, response) in self.exchange(requests, at_once).await?.into_iter().enumerate() {
            let kind = match (&response, outcome(&response)) {
                (Ok(Some(body)), _) if *body == json_string(i, size) => {
                    failures.ok += 1;
                    continue;
                }
                (_, Some(kind)) => kind.to_string(),
                (Ok(_), None) => "mismatch".to_string(),
                (Err(error), None) => error.to_string(),
            };
            *failures.kinds.entry(kind).or_default() += 1;
        }
        if failures.kinds.is_empty() { Ok(count) } else { Err(failures.into()) }
    }

    /// Sends the requests, so many at once, and gives their answers in their order. The first dials.
    async fn exchange(
        &mut self,
        requests: Vec<Request>,
        at_once: usize,
    ) -> Result<Vec<std::result::Result<Option<Vec<u8>>, OutboundFailure>>> {
        let mut answers = BTreeMap::new();
        let mut sent = HashMap::new();
        let mut waiting = requests.into_iter().enumerate();
        loop {
            while sent.len() < at_once
                && let Some((i, request)) = waiting.next()
            {
                let behaviour = &mut self.swarm.behaviour_mut().request;
                let addresses = vec![self.address.clone()];
                sent.insert(behaviour.send_request_with_addresses(&self.remote, request, addresses), i);
            }
            if sent.is_empty() {
                return Ok(answers.into_values().collect());
            }
            match self.next_event().await? {
                BehaviourEvent::Request(request_response::Event::Message {
                    message: Message::Response { request_id, response },
                    ..
                }) => answers.insert(sent.remove(&request_id), Ok(response)),
                BehaviourEvent::Request(request_response::Event::OutboundFailure { request_id, error, .. }) => {
                    answers.insert(sent.remove(&request_id), Err(error))
                }
                _ => None,
            };
        }
    }

    async fn next_event(&mut self) -> Result<BehaviourEvent> {
        loop {
            match self.swarm.select_next_some().await {
                SwarmEvent::Behaviour(event) => return Ok(event),
                SwarmEvent::OutgoingConnectionError { error, .. } => return Err(error.into()),
                SwarmEvent::ConnectionClosed { cause, .. } => {
                    return Err(format!("connection closed: {cause:?}").into());
                }
                _ => {}
            }
        }
    }
}

/// Names what a requester is told apart from an answer. Yamux does not tell a reset that comes while it reads from a close.
fn outcome(response: &std::result::Result<Option<Vec<u8>>, OutboundFailure>) -> Option<&'static str> {
    match response {
        Ok(None) => Some("no_response"),
        Err(OutboundFailure::UnsupportedProtocols) => Some("not_supported"),
        // Other errors are of request-response itself: it has its limit of streams.
        Err(OutboundFailure::Io(error)) if error.kind() != io::ErrorKind::Other => Some("reset"),
        _ => None,
    }
}

/// A JSON string of `size` bytes, quotes included, that tells `i`.
fn json_string(i: usize, size: usize) -> Vec<u8> {
    let text = format!("{i}:");
    let padding = "x".repeat(size.saturating_sub(text.len() + 2));
    format!("\"{text}{padding}\"").into_bytes()
}
