//! Serves the gateway's connections.

use std::time::Duration;

use aa_protocol::wire;
use aa_runtime::Node;
use tokio::{sync::watch, task::JoinHandle};
use tonic::transport::Server;
use tonic_health::server::HealthReporter;

use super::{KEEPALIVE, StartError};
use crate::{
    drain::drained,
    gateway::{DecodingLayer, Gateway, MAX_MESSAGE},
    receiving::ReceiveLayer,
    throttle::ThrottleLayer,
    tls::TlsListener,
};

type Service = wire::v1::gateway_server::GatewayServer<Gateway>;

/// How often it is looked whether the node's lease runs.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(super) async fn serve_gateway(
    gateway: Gateway,
    (throttling, receiving): (ThrottleLayer, ReceiveLayer),
    listener: TlsListener,
    node: Node,
    draining: watch::Receiver<bool>,
) -> Result<JoinHandle<Result<(), tonic::transport::Error>>, StartError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<Service>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(wire::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let decoding = DecodingLayer::new(gateway.clone());
    let service = Service::new(gateway).max_decoding_message_size(MAX_MESSAGE);
    let server = Server::builder()
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(8 << 20)
        .max_concurrent_streams(1_024)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .layer(throttling)
        .layer(decoding)
        .layer(receiving)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(service);
    let stopping = report_health(health, node, draining);
    Ok(tokio::spawn(server.serve_with_incoming_shutdown(listener, stopping)))
}

/// Lets the health service say whether the node may answer, until it is drained.
async fn report_health(health: HealthReporter, node: Node, mut draining: watch::Receiver<bool>) {
    let mut serves = true;
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        tokio::select! {
            () = drained(&mut draining) => break,
            _ = looks.tick() => {}
        }
        if node.serves() == serves {
            continue;
        }
        serves = !serves;
        if serves {
            health.set_serving::<Service>().await;
        } else {
            health.set_not_serving::<Service>().await;
        }
    }
    health.set_not_serving::<Service>().await;
}
