//! Cap'n Proto's RPC, over a Unix socket.
//!
//! Its compiler is a program in C++, so what that makes of `schema/echo.capnp` is kept in `src/echo_capnp.rs`. In `bench/`:
//!
//! ```sh
//! cargo install capnpc --version 0.27.0 && capnp compile -orust:src --src-prefix=schema schema/echo.capnp
//! ```

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use capnp::capability::Rc;
use capnp::message::ReaderOptions;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::twoparty::VatNetwork;
use capnp_rpc::{RpcSystem, new_client, new_client_from_rc};
use futures::AsyncReadExt as _;
use futures::io::{BufReader, BufWriter};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::spawn_local;
use tokio_util::compat::TokioAsyncReadCompatExt as _;

use super::peer::{self, Listening, MAX_MESSAGE, block_on_local, shares_of};
use super::{Candidate, Session};
use crate::echo_capnp::{echo, items};
use crate::timing::{Items, check, one_by_one_async};
use crate::usage::Processes;
use crate::work::{Job, Kind, Work, item};

pub const NAME: &str = "capnp";

/// What may be under way of a stream.
const WINDOW: usize = 512 << 10;

pub struct Capnp;

impl Candidate for Capnp {
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
        let client = block_on_local(async {
            let stream = UnixStream::connect(server.path()).await?;
            let mut system = RpcSystem::new(network(stream, Side::Client), None);
            let client: echo::Client = system.bootstrap(Side::Server);
            spawn_local(system);
            anyhow::Ok(client)
        })?;
        Ok(Box::new(Connected { client, server }))
    }
}

fn network(stream: UnixStream, side: Side) -> Box<VatNetwork<impl futures::AsyncRead + Unpin>> {
    let (reader, writer) = stream.compat().split();
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some(MAX_MESSAGE / 8));
    let (reader, writer) = (BufReader::new(reader), BufWriter::new(writer));
    let mut network = VatNetwork::new(reader, writer, side, options);
    network.set_window_size(WINDOW);
    Box::new(network)
}

struct Connected {
    client: echo::Client,
    server: Listening,
}

impl Session for Connected {
    fn processes(&self) -> Processes {
        self.server.processes()
    }

    fn run(&mut self, job: &Job) -> Result<Vec<f64>> {
        block_on_local(async {
            match job.kind {
                Kind::Callers(callers) => {
                    let begin = Instant::now();
                    let calls = job.calls / callers;
                    let task = |_| {
                        let (client, payload) = (self.client.clone(), job.payload.clone());
                        spawn_local(async move {
                            let mut ends = Vec::with_capacity(calls);
                            for _ in 0..calls {
                                call(&client, &payload).await?;
                                ends.push(Instant::now());
                            }
                            Ok(ends)
                        })
                    };
                    shares_of(begin, (0..callers).map(task).collect()).await
                }
                Kind::Stream => self.items(job).await,
                _ => one_by_one_async(job, async || call(&self.client, &job.payload).await).await,
            }
        })
    }
}

impl Connected {
    /// The other side calls an object of ours for each item.
    async fn items(&self, job: &Job) -> Result<Vec<f64>> {
        let receiver = Rc::new(Receiver(RefCell::new(Items::new(job))));
        let mut request = self.client.items_request();
        request.get().set_items(job.calls.try_into()?);
        request.get().set_size(job.payload.len().try_into()?);
        request.get().set_to(new_client_from_rc(receiver.clone()));
        request.send().promise.await?;
        receiver.0.borrow_mut().end()
    }
}

async fn call(client: &echo::Client, payload: &[u8]) -> Result<()> {
    let mut request = client.echo_request();
    request.get().set_data(payload);
    let reply = request.send().promise.await?;
    check(reply.get()?.get_data()?, payload)
}

struct Receiver(RefCell<Items>);

impl items::Server for Receiver {
    async fn item(self: Rc<Self>, params: items::ItemParams) -> capnp::Result<()> {
        let checked = self.0.borrow_mut().item(params.get()?.get_data()?);
        checked.map_err(|error| capnp::Error::failed(error.to_string()))
    }

    async fn end(self: Rc<Self>, _: items::EndParams, _: items::EndResults) -> capnp::Result<()> {
        Ok(())
    }
}

struct Service;

impl echo::Server for Service {
    async fn echo(
        self: Rc<Self>,
        params: echo::EchoParams,
        mut results: echo::EchoResults,
    ) -> capnp::Result<()> {
        results.get().set_data(params.get()?.get_data()?);
        Ok(())
    }

    async fn items(
        self: Rc<Self>,
        params: echo::ItemsParams,
        _: echo::ItemsResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let (to, size) = (params.get_to()?, params.get_size() as usize);
        for number in 0..params.get_items() as usize {
            let mut request = to.item_request();
            request.get().set_data(&item(number, size));
            request.send().await?;
        }
        to.end_request().send().promise.await?;
        Ok(())
    }
}

pub async fn serve(path: PathBuf) -> Result<()> {
    let listener = UnixListener::bind(path)?;
    peer::listening();
    let (stream, _) = listener.accept().await?;
    let client: echo::Client = new_client(Service);
    Ok(RpcSystem::new(network(stream, Side::Server), Some(client.client)).await?)
}
