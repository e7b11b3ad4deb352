//! What a plugin logs and prints, as events of its host.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use plug::Command;
use plug_faults::flow::{FlowProxy, HomeService, House};
use plug_faults::load_probe;
use tracing::Level;
use tracing::dispatcher::{self, Dispatch};

use crate::aftermath::{BOUND, Case, EVIL, Folder, wait_until};

/// The lines that a subscriber has written.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    fn lines_with(&self, text: &str) -> Vec<String> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = String::from_utf8_lossy(&bytes);
        all.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }
}

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Loads the plugin, and runs `act`, with a subscriber that takes events down to a level.
fn with_subscriber(level: Level, act: impl FnOnce(&FlowProxy, &Written)) {
    let case = Case::new();
    let written = Written::default();
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    dispatcher::with_default(&Dispatch::new(subscriber), || {
        let command = Command::new(env!("CARGO_BIN_EXE_flowing")).trace_stderr(true);
        let peer = command.serve::<HomeService>(Arc::new(House::default())).load().unwrap();
        case.expect_gone(peer.pid().unwrap());
        act(&peer.proxy().unwrap(), &written);
        peer.stop(BOUND).unwrap();
    });
    case.finish();
}

#[test]
fn a_record_comes_under_the_span_of_its_call_and_a_line_under_none() {
    with_subscriber(Level::INFO, |flow, written| {
        let span = tracing::info_span!("errand", number = 7);
        span.in_scope(|| flow.ask("log hello").unwrap());
        wait_until("the record and the line", || {
            !written.lines_with("answer=42").is_empty()
                && !written.lines_with("printed hello").is_empty()
        });
        let [record] = &written.lines_with("answer=42")[..] else { panic!("several records") };
        for part in ["INFO", "errand{number=7}", "hello", "flowing", "plug_faults::flow"] {
            assert!(record.contains(part), "{part:?} in {record}");
        }
        let line = &written.lines_with("printed hello")[0];
        assert!(!line.contains("errand") && line.contains("plug::stderr"), "{line}");
        assert!(written.lines_with("in detail").is_empty(), "below the level that is wanted");
    });
}

#[test]
fn a_host_that_wants_details_gets_them() {
    with_subscriber(Level::DEBUG, |flow, written| {
        flow.ask("log hello").unwrap();
        wait_until("the details", || !written.lines_with("but hello in detail").is_empty());
    });
}

/// What a subscriber has written while `act` ran on this thread.
fn written_while(act: impl FnOnce()) -> Written {
    let written = Written::default();
    let writer = written.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    dispatcher::with_default(&Dispatch::new(subscriber), act);
    written
}

#[test]
fn x4_a_program_that_others_could_replace_is_warned_of() {
    use std::os::unix::fs::PermissionsExt as _;
    let case = Case::new();
    let folder = Folder::new("x4-warning");
    let path = folder.join("plugin");
    std::fs::copy(EVIL, &path).unwrap();
    let load = |mode| {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        written_while(|| drop(load_probe(&path).unwrap()))
    };
    let warned = load(0o777).lines_with("chmod go-w");
    assert!(warned.len() == 1 && warned[0].contains("WARN"), "{warned:?}");
    assert!(warned[0].contains(path.to_str().unwrap()), "{warned:?}");
    assert_eq!(load(0o755).lines_with(&format!("write {}", path.display())), [""; 0]);
    case.finish();
}

#[test]
fn x6_a_descriptor_that_plugins_would_inherit_is_warned_of_once() {
    let case = Case::new();
    let folder = Folder::new("x6");
    let path = folder.join("leaked");
    let opened = std::fs::File::create(&path).unwrap();
    let load =
        || written_while(|| drop(load_probe(EVIL).unwrap())).lines_with(path.to_str().unwrap());
    assert_eq!(load(), [""; 0], "it is close-on-exec");
    rustix::io::fcntl_setfd(&opened, rustix::io::FdFlags::empty()).unwrap();
    let warned = load();
    assert!(warned.len() == 1 && warned[0].contains("WARN"), "{warned:?}");
    assert_eq!(load(), [""; 0], "once is enough");
    drop(opened);
    case.finish();
}
