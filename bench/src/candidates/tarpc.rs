//! tarpc, with bincode over a Unix socket.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use serde_bytes::ByteBuf;
use tarpc::client;
use tarpc::context::{self, Context};
use tarpc::serde_transport::unix;
use tarpc::server::{BaseChannel, Channel as _};
use tarpc::tokio_serde::formats::Bincode;

use super::peer::{self, Listening, MAX_MESSAGE, block_on, shares_of};
use super::{Candidate, Session};
use crate::timing::{check, one_by_one_async};
use crate::usage::Processes;
use crate::work::{Job, Kind, Work};

pub const NAME: &str = "tarpc";

#[tarpc::service]
trait Echo {
    async fn echo(data: ByteBuf) -> ByteBuf;
}

pub struct Tarpc;

impl Candidate for Tarpc {
    fn name(&self) -> &'static str {
        NAME
    }

    fn lacks(&self, work: Work) -> Option<String> {
        (work.kind() == Kind::Stream).then(|| "it has no streams".to_owned())
    }

    fn child(&self) -> Option<&'static str> {
        Some(NAME)
    }

    fn start(&self, _: Work) -> Result<Box<dyn Session>> {
        let server = Listening::start(NAME)?;
        let client = block_on(async {
            let mut connect = unix::connect(server.path(), Bincode::default);
            connect.config_mut().max_frame_length(MAX_MESSAGE);
            anyhow::Ok(EchoClient::new(client::Config::default(), connect.await?).spawn())
        })?;
        Ok(Box::new(Connected { client, server }))
    }
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
            let Kind::Callers(callers) = job.kind else {
                return one_by_one_async(job, async || echo(&self.client, &job.payload).await)
                    .await;
            };
            let begin = Instant::now();
            let calls = job.calls / callers;
            let task = |_| {
                let (client, payload) = (self.client.clone(), job.payload.clone());
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
        })
    }
}

async fn echo(client: &EchoClient, payload: &[u8]) -> Result<()> {
    let reply = client.echo(context::current(), ByteBuf::from(payload)).await?;
    check(&reply, payload)
}

#[derive(Clone)]
struct Service;

impl Echo for Service {
    async fn echo(self, _: Context, data: ByteBuf) -> ByteBuf {
        data
    }
}

pub async fn serve(path: PathBuf) -> Result<()> {
    let mut incoming = unix::listen(path, Bincode::default).await?;
    incoming.config_mut().max_frame_length(MAX_MESSAGE);
    peer::listening();
    let transport = incoming.next().await.context("nobody has connected")??;
    let channel = BaseChannel::with_defaults(transport);
    let spawn = |response| async {
        tokio::spawn(response);
    };
    channel.execute(Service.serve()).for_each(spawn).await;
    Ok(())
}
