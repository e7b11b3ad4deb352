//! JSON-RPC as language servers speak it, by lsp-server over stdin and stdout. The child uses its `Connection`; for the
//! host's side the crate has messages only, so the host writes and reads them itself, which is less work than a
//! `Connection` would be.

use std::collections::HashMap;
use std::io::{BufReader, BufWriter};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use lsp_server::{Connection, Message, Notification, Request, RequestId, Response};
use serde_json::{Value, json};

use super::child::{self, Kept};
use super::{Candidate, Session};
use crate::timing::{Items, by_threads, check, one_by_one};
use crate::usage::Processes;
use crate::work::{Job, Kind, Work, item};

pub const NAME: &str = "lsp-server";

/// How LSP sends parts of a result.
const ITEM: &str = "$/progress";

/// How long a caller waits for the one that reads, before it takes that for dead.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Lsp;

impl Candidate for Lsp {
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
        let mut command = child::command(NAME)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the child has no pipes");
        };
        let (input, output) = (BufWriter::new(input), BufReader::new(output));
        Ok(Box::new(Connected { child: Kept(child), input, output, last_id: 0.into() }))
    }
}

struct Connected {
    child: Kept,
    input: BufWriter<ChildStdin>,
    output: BufReader<ChildStdout>,
    last_id: AtomicI32,
}

impl Session for Connected {
    fn processes(&self) -> Processes {
        Processes { host: None, child: Some(self.child.0.id()) }
    }

    fn run(&mut self, job: &Job) -> Result<Vec<f64>> {
        match job.kind {
            Kind::Callers(callers) => self.by_callers(job, callers),
            Kind::Stream => self.items(job),
            _ => one_by_one(job, || {
                let request = request(&self.last_id, "echo", text(&job.payload)?);
                let id = request.id.clone();
                Message::from(request).write(&mut self.input)?;
                match Message::read(&mut self.output)? {
                    Some(Message::Response(reply)) if reply.id == id => check_reply(reply, job),
                    other => bail!("{other:?} is not the reply to {id}"),
                }
            }),
        }
    }
}

impl Connected {
    fn items(&mut self, job: &Job) -> Result<Vec<f64>> {
        let wanted = json!({ "items": job.calls, "size": job.payload.len() });
        Message::from(request(&self.last_id, "items", wanted)).write(&mut self.input)?;
        let mut items = Items::new(job);
        loop {
            match Message::read(&mut self.output)? {
                Some(Message::Notification(part)) if part.method == ITEM => {
                    items.item(part.params.as_str().context("an item is no text")?.as_bytes())?;
                }
                Some(Message::Response(_)) => return items.end(),
                other => bail!("{other:?} is no item of a stream"),
            }
        }
    }

    /// Many threads write, one reads and hands the replies out.
    fn by_callers(&mut self, job: &Job, callers: usize) -> Result<Vec<f64>> {
        let Connected { child, input, output, last_id } = self;
        let waiting: Mutex<HashMap<RequestId, Sender<Response>>> = Mutex::default();
        let input = Mutex::new(input);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| -> Result<()> {
                for _ in 0..job.calls / callers * callers {
                    let Some(Message::Response(reply)) = Message::read(output)? else {
                        bail!("the child has sent something else than a reply");
                    };
                    let waiter = lock(&waiting).remove(&reply.id).context("an unknown id")?;
                    waiter.send(reply)?;
                }
                Ok(())
            });
            let times = by_threads(job, callers, || {
                let (replies, reply): (_, Receiver<Response>) = channel();
                let request = request(last_id, "echo", text(&job.payload)?);
                lock(&waiting).insert(request.id.clone(), replies);
                Message::from(request).write(&mut *lock(&input))?;
                check_reply(reply.recv_timeout(PATIENCE)?, job)
            });
            if times.is_err() {
                // Or the reader would wait for replies that do not come.
                let _ = child.0.kill();
            }
            match reader.join() {
                Ok(read) => read.and(times),
                Err(_) => bail!("the thread that reads has panicked"),
            }
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn request(last_id: &AtomicI32, method: &str, params: Value) -> Request {
    let id = last_id.fetch_add(1, Ordering::Relaxed);
    Request { id: id.into(), method: method.to_owned(), params }
}

fn text(payload: &[u8]) -> Result<Value> {
    Ok(Value::from(std::str::from_utf8(payload)?))
}

fn check_reply(reply: Response, job: &Job) -> Result<()> {
    let Ok(result) = reply.response_result else { bail!("the reply is an error") };
    check(result.as_str().context("the reply is no text")?.as_bytes(), &job.payload)
}

pub fn serve() -> Result<()> {
    let (connection, threads) = Connection::stdio();
    for message in &connection.receiver {
        let Message::Request(Request { id, method, params }) = message else { continue };
        if method == "items" {
            let number = |key| params[key].as_u64().map(|number| number as usize);
            let (items, size) =
                number("items").zip(number("size")).context("a number is missing")?;
            for number in 0..items {
                let text = String::from_utf8(item(number, size))?;
                let part = Notification { method: ITEM.to_owned(), params: text.into() };
                connection.sender.send(part.into())?;
            }
            connection.sender.send(Response::new_ok(id, Value::Null).into())?;
        } else {
            ensure!(method == "echo", "there is no method {method}");
            connection.sender.send(Response::new_ok(id, params).into())?;
        }
    }
    drop(connection);
    Ok(threads.join()?)
}
