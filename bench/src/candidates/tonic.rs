//! gRPC by tonic, over a Unix socket.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use plug::bytes::Bytes;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::codegen::BoxStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use self::generated::echo_client::EchoClient;
use self::generated::echo_server::{Echo, EchoServer};
use self::generated::{Payload, Wanted};
use super::peer::{self, Listening, MAX_MESSAGE, block_on, shares_of};
use super::{Candidate, Session};
use crate::timing::{Items, check, one_by_one_async};
use crate::usage::Processes;
use crate::work::{Job, Kind, Work, item};

#[allow(clippy::all, clippy::pedantic)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/tonic/echo.rs"));
}

pub const NAME: &str = "tonic";

pub struct Tonic;

impl Candidate for Tonic {
    fn name(&self) -> &'static str {
        NAME
    }

    fn lacks(&self, _: Work) -> Option<String> {
        None
    }

    fn child(&self) -> Option<&'static str> {
        Some(NAME)
    }

    fn start(&self, _: Work) -> Result<Box<dyn Session>> {
        let server = Listening::start(NAME)?;
        let address = format!("unix://{}", server.path().display());
        let channel = block_on(async { Endpoint::from_shared(address)?.connect().await })?;
        let client = EchoClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE);
        Ok(Box::new(Connected { client, server }))
    }
}

struct Connected {
    client: EchoClient<Channel>,
    server: Listening,
}

impl Session for Connected {
    fn processes(&self) -> Processes {
        self.server.processes()
    }

    fn run(&mut self, job: &Job) -> Result<Vec<f64>> {
        block_on(async {
            let mut client = self.client.clone();
            let payload = Bytes::from(job.payload.clone());
            match job.kind {
                Kind::Callers(callers) => {
                    let begin = Instant::now();
                    let calls = job.calls / callers;
                    let task = |_| {
                        let (mut client, payload) = (client.clone(), payload.clone());
                        tokio::spawn(async move {
                            let mut ends = Vec::with_capacity(calls);
                            for _ in 0..calls {
                                echo(&mut client, &payload).await?;
                                ends.push(Instant::now());
                            }
                            Ok(ends)
                        })
                    };
                    shares_of(begin, (0..callers).map(task).collect()).await
                }
                Kind::Stream => {
                    let (wanted, size) = (job.calls.try_into()?, job.payload.len().try_into()?);
                    let mut items = Items::new(job);
                    let request = Request::new(Wanted { items: wanted, size });
                    let mut stream = client.items(request).await?.into_inner();
                    while let Some(payload) = stream.message().await? {
                        items.item(&payload.data)?;
                    }
                    items.end()
                }
                _ => one_by_one_async(job, async || echo(&mut client, &payload).await).await,
            }
        })
    }
}

async fn echo(client: &mut EchoClient<Channel>, payload: &Bytes) -> Result<()> {
    let reply = client.echo(Request::new(Payload { data: payload.clone() })).await?;
    check(&reply.into_inner().data, payload)
}

struct Service;

#[tonic::async_trait]
impl Echo for Service {
    async fn echo(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    type ItemsStream = BoxStream<Payload>;

    async fn items(
        &self,
        request: Request<Wanted>,
    ) -> Result<Response<BoxStream<Payload>>, Status> {
        let Wanted { items, size } = request.into_inner();
        let make = move |number| Ok(Payload { data: item(number, size as usize).into() });
        let stream = tokio_stream::iter((0..items as usize).map(make));
        Ok(Response::new(Box::pin(stream)))
    }
}

pub async fn serve(path: PathBuf) -> Result<()> {
    let listener = UnixListener::bind(path)?;
    peer::listening();
    let service = EchoServer::new(Service)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let incoming = UnixListenerStream::new(listener);
    Ok(Server::builder().add_service(service).serve_with_incoming(incoming).await?)
}
