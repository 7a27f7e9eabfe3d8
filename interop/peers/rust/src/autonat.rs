//! A peer that has its addresses dialed by AutoNAT v2, and dials for others.

use libp2p::{
    Multiaddr, Swarm, SwarmBuilder,
    autonat::v2,
    futures::StreamExt,
    identify, identity, noise,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use serde_json::json;
use tokio::io::{AsyncReadExt, stdin};

use crate::{Result, emit};

#[derive(NetworkBehaviour)]
struct Behaviour {
    client: v2::client::Behaviour,
    identify: identify::Behaviour,
    server: v2::server::Behaviour,
}

/// Listens on an IPv4 address, and connects to servers.
pub async fn autonat(ip: &str, servers: &[&str]) -> Result<()> {
    let mut swarm = new_swarm()?;
    swarm.listen_on(format!("/ip4/{ip}/tcp/0").parse()?)?;
    let mut stopped = Box::pin(async {
        let mut input = Vec::new();
        stdin().read_to_end(&mut input).await
    });
    loop {
        tokio::select! {
            event = swarm.select_next_some() => match event {
                SwarmEvent::NewListenAddr { address, .. } => {
                    let peer = *swarm.local_peer_id();
                    emit(json!({"event": "listening", "peer": peer.to_string(), "address": format!("{address}/p2p/{peer}")}));
                    for server in servers {
                        swarm.dial(server.parse::<Multiaddr>()?)?;
                    }
                }
                SwarmEvent::Behaviour(BehaviourEvent::Client(event)) => {
                    let (known, nothing): (_, [String; 0]) = ([event.tested_addr.to_string()], []);
                    emit(match event.result {
                        Ok(()) => json!({"event": "reachability", "reachable": known, "unreachable": nothing, "unknown": nothing}),
                        Err(_) => json!({"event": "reachability", "reachable": nothing, "unreachable": known, "unknown": nothing}),
                    });
                }
                _ => {}
            },
            read = &mut stopped => return Ok(read.map(|_| ())?),
        }
    }
}

fn new_swarm() -> Result<Swarm<Behaviour>> {
    Ok(SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)?
        .with_behaviour(|key: &identity::Keypair| Behaviour {
            client: v2::client::Behaviour::default(),
            identify: identify::Behaviour::new(identify::Config::new("interop/1.0.0".into(), key.public())),
            server: v2::server::Behaviour::default(),
        })?
        .build())
}
