//! Making threads.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::sync::Arc;
use std::thread::{Builder, ThreadId};

use super::seam::{self, Call};

/// Runs something on a thread of its own. If none can be made, it is dropped on this one.
pub(crate) fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<ThreadId> {
    seam::step(Call::Thread)?;
    Builder::new().name(name.to_owned()).spawn(run).map(|thread| thread.thread().id())
}

/// What a thread does until the process ends.
pub(crate) trait Forever: Send + Sync + 'static {
    /// The name of the thread, of 15 bytes at most.
    const NAME: &'static CStr;

    fn run(&self) -> !;
}

/// Runs something on a thread of its own that takes little to begin: the first reply of a plugin waits for it.
///
/// A thread of the standard library's makes a second stack, for the handler that reports an overflow of the first, and
/// notes down what it is called. That is ten system calls, and, as the thread allocates for it, an arena of the
/// allocator's. Without, an overflow ends the process all the same, if with less to say.
#[cfg(all(target_os = "linux", not(plug_portable)))]
pub(crate) fn run_forever<T: Forever>(what: Arc<T>) -> io::Result<()> {
    use std::ffi::c_void;

    extern "C" fn begin<T: Forever>(what: *mut c_void) -> *mut c_void {
        // SAFETY: it comes from `Arc::into_raw` below, and its count is this thread's.
        let what = unsafe { Arc::from_raw(what.cast_const().cast::<T>()) };
        // SAFETY: a thread names itself, with a text that ends in a zero.
        unsafe { libc::pthread_setname_np(libc::pthread_self(), T::NAME.as_ptr()) };
        what.run()
    }

    seam::step(Call::Thread)?;
    let raw = Arc::into_raw(what);
    // SAFETY: `pthread_attr_t` is plain data, which the first call fills in before the others use it, and the pointers to it
    // and to `thread` are to locals that live through the calls. `begin` takes what it is given for what it is. The
    // thread has the count of `raw` if it is made, and otherwise this one takes it back: nobody else knows it.
    let error = unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        libc::pthread_attr_init(&mut attributes);
        libc::pthread_attr_setstacksize(&mut attributes, STACK);
        libc::pthread_attr_setdetachstate(&mut attributes, libc::PTHREAD_CREATE_DETACHED);
        let mut thread = 0;
        let argument = raw.cast_mut().cast::<c_void>();
        let error = libc::pthread_create(&mut thread, &attributes, begin::<T>, argument);
        libc::pthread_attr_destroy(&mut attributes);
        if error != 0 {
            drop(Arc::from_raw(raw));
        }
        error
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Runs something on a thread of its own.
#[cfg(not(all(target_os = "linux", not(plug_portable))))]
pub(crate) fn run_forever<T: Forever>(what: Arc<T>) -> io::Result<()> {
    spawn(&T::NAME.to_string_lossy(), move || what.run()).map(drop)
}

/// As much as a thread of the standard library's has. Only what is used of it takes memory.
#[cfg(all(target_os = "linux", not(plug_portable)))]
const STACK: usize = 2 << 20;
