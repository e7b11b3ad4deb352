//! P25: the last handle is dropped in odd places. None of them waits for the plugin, which does not end here: it is
//! stopped, or waits for what has dropped it.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock};

use plug::{Command, Proxy as _, Stream};
use plug_faults::ProbeProxy;
use plug_faults::flow::{FlowProxy, Home, HomeService, Item};
use rustix::process::Signal;

use crate::aftermath::{
    BOUND, Case, evil, in_time, is_alive, is_stopped, kill, pid, signal, start, wait_until,
};
use crate::streams::FLOWING;

/// Lets something drop the last handle of a plugin that cannot end by itself.
fn dropped(drop_it: impl FnOnce(ProbeProxy) + Send + 'static) {
    let case = Case::new();
    let probe = case.load(evil(&[]).stop_grace(4 * BOUND));
    let pid = pid(&probe);
    signal(pid, Signal::STOP);
    wait_until("the plugin to be stopped", || is_stopped(pid));
    in_time("the drop", move || drop_it(probe));
    assert!(is_alive(pid), "the drop has waited for the end of the plugin, or has caused it");
    // What the grace would end with.
    kill(pid);
    case.finish();
}

#[test]
fn p25_the_last_handle_is_dropped_inside_an_async_runtime() {
    dropped(|probe| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async move { drop(probe) });
    });
}

#[test]
fn p25_the_last_handle_is_dropped_as_its_thread_ends() {
    thread_local! {
        static LAST: RefCell<Option<ProbeProxy>> = const { RefCell::new(None) };
    }
    dropped(|probe| {
        let keep = move || LAST.with(|last| *last.borrow_mut() = Some(probe));
        std::thread::spawn(keep).join().unwrap();
    });
}

#[test]
fn p25_the_last_handle_is_dropped_during_a_panic() {
    dropped(|probe| {
        let panic = std::panic::catch_unwind(AssertUnwindSafe(move || {
            let _last = probe;
            std::panic::resume_unwind(Box::new("as a test"));
        }));
        assert!(panic.is_err());
    });
}

/// A host that keeps the proxy of a plugin until that asks it to drop it.
#[derive(Default)]
struct Dropper {
    last: Mutex<Option<FlowProxy>>,
    /// Set once nobody else has it.
    is_last: OnceLock<()>,
    /// Whether the plugin lived when the drop had returned.
    lived_on: OnceLock<bool>,
}

impl Home for Dropper {
    fn up(&self, _: u32) -> plug::Result<u32> {
        Err("nobody calls this".into())
    }

    fn say(&self, what: String) -> plug::Result<String> {
        let last = self.last.lock().unwrap().take();
        if let Some(flow) = last {
            wait_until("the other handles to be gone", || self.is_last.get().is_some());
            let pid = flow.peer().pid().unwrap();
            drop(flow);
            let _ = self.lived_on.set(is_alive(pid));
        }
        Ok(what)
    }

    fn feed(&self, _: u64, _: u64) -> plug::Result<Stream<Item>> {
        Err("nobody calls this".into())
    }
}

#[test]
fn p25_the_last_handle_is_dropped_inside_a_call_from_its_plugin() {
    let case = Case::new();
    let host = Arc::new(Dropper::default());
    let command = Command::new(FLOWING).stop_grace(4 * BOUND).serve::<HomeService>(host.clone());
    let flow: FlowProxy = command.load().unwrap().proxy().unwrap();
    case.expect_gone(flow.peer().pid().unwrap());
    *host.last.lock().unwrap() = Some(flow.clone());
    // It returns at once, and the plugin calls back when nobody here has a handle but its host's service.
    let told = start("the one-way call", move || flow.tell("say farewell").unwrap());
    told.get();
    host.is_last.set(()).unwrap();
    wait_until("the drop", || host.lived_on.get().is_some());
    assert!(host.lived_on.get().unwrap(), "it waits for the answer of this host");
    case.finish();
}
