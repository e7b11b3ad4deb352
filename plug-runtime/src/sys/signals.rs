//! What a plugin inherits from its host that it must not keep.

#![allow(unsafe_code)]

/// Undoes what a host may have done to signals: a blocked SIGTERM would make this process deaf to it, and with
/// an ignored SIGCHLD it could not wait for children of its own. A handler that this program has set stays.
pub(crate) fn reset() {
    // SAFETY: `sigset_t` and `sigaction` are plain data, for which all zeros is a valid value. All pointers are to
    // locals that live through the calls, or null where that is allowed. Changing the mask of this thread and the
    // disposition of a signal has no effect on memory.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());

        let mut child: libc::sigaction = std::mem::zeroed();
        let known = libc::sigaction(libc::SIGCHLD, std::ptr::null(), &mut child) == 0;
        if known && child.sa_sigaction == libc::SIG_IGN {
            child.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(libc::SIGCHLD, &child, std::ptr::null_mut());
        }
    }
}

/// Runs `act` while this process ignores SIGTERM, from itself too.
pub(crate) fn ignoring_sigterm(act: impl FnOnce()) {
    // SAFETY: as in `reset`.
    unsafe {
        let mut ignore: libc::sigaction = std::mem::zeroed();
        ignore.sa_sigaction = libc::SIG_IGN;
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGTERM, &ignore, &mut before) == 0 {
            act();
            libc::sigaction(libc::SIGTERM, &before, std::ptr::null_mut());
        }
    }
}
