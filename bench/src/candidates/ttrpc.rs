//! ttrpc, asynchronous, over a Unix socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use ttrpc::r#async::{Client, Server, ServerStreamSender, TtrpcContext};
use ttrpc::context::with_timeout;

use self::generated::echo::{Payload, Wanted};
use self::generated::echo_ttrpc::{Echo, EchoClient, create_echo};
use super::peer::{self, Listening, block_on, shares_of};
use super::{Candidate, Session};
use crate::timing::{Items, check, one_by_one_async};
use crate::usage::Processes;
use crate::work::{Job, Kind, Work, item};

#[allow(clippy::all, clippy::pedantic)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/ttrpc/mod.rs"));
}

pub const NAME: &str = "ttrpc";

pub struct Ttrpc;

impl Candidate for Ttrpc {
    fn name(&self) -> &'static str {
        NAME
    }

    fn lacks(&self, work: Work) -> Option<String> {
        (work == Work::Echo64M).then(|| "its messages have 4 MiB at most".to_owned())
    }

    fn child(&self) -> Option<&'static str> {
        Some(NAME)
    }

    fn start(&self, _: Work) -> Result<Box<dyn Session>> {
        let server = Listening::start(NAME)?;
        let address = address(server.path());
        let client = EchoClient::new(block_on(Client::connect(&address))?);
        Ok(Box::new(Connected { client, server }))
    }
}

fn address(path: PathBuf) -> String {
    format!("unix://{}", path.display())
}

struct Connected {
    client: EchoClient,
    server: Listening,
}

impl Session for Connected {
    fn processes(&self) -> Processes {
        self.server.processes()
    }

    fn run(&mut self, job: &Job) -> Result<Vec<f64>> {
        block_on(async {
            let payload = Payload { data: job.payload.clone(), ..Payload::default() };
            match job.kind {
                Kind::Callers(callers) => {
                    let begin = Instant::now();
                    let calls = job.calls / callers;
                    let task = |_| {
                        let (client, payload) = (self.client.clone(), payload.clone());
                        tokio::spawn(async move {
                            let mut ends = Vec::with_capacity(calls);
                            for _ in 0..calls {
                                echo(&client, &payload).await?;
                                ends.push(Instant::now());
                            }
                            Ok(ends)
                        })
                    };
                    shares_of(begin, (0..callers).map(task).collect()).await
                }
                Kind::Stream => {
                    let (items, size) = (job.calls.try_into()?, job.payload.len().try_into()?);
                    let wanted = Wanted { items, size, ..Wanted::default() };
                    let mut items = Items::new(job);
                    let mut stream = self.client.items(with_timeout(0), &wanted).await?;
                    while let Some(payload) = stream.recv().await? {
                        items.item(&payload.data)?;
                    }
                    items.end()
                }
                _ => one_by_one_async(job, async || echo(&self.client, &payload).await).await,
            }
        })
    }
}

async fn echo(client: &EchoClient, payload: &Payload) -> Result<()> {
    let reply = client.echo(with_timeout(0), payload).await?;
    check(&reply.data, &payload.data)
}

struct Service;

#[async_trait::async_trait]
impl Echo for Service {
    async fn echo(&self, _: &TtrpcContext, payload: Payload) -> ttrpc::Result<Payload> {
        Ok(payload)
    }

    async fn items(
        &self,
        _: &TtrpcContext,
        wanted: Wanted,
        stream: ServerStreamSender<Payload>,
    ) -> ttrpc::Result<()> {
        for number in 0..wanted.items as usize {
            let data = item(number, wanted.size as usize);
            stream.send(&Payload { data, ..Payload::default() }).await?;
        }
        Ok(())
    }
}

pub async fn serve(path: PathBuf) -> Result<()> {
    let service = create_echo(Arc::new(Service));
    let mut server = Server::new().bind(&address(path))?.register_service(service);
    server.start().await?;
    peer::listening();
    std::future::pending().await
}
