//! What the runtime reckons, which it does not show: its sources, once more.

#[path = "../../../plug-runtime/src/budget/cost.rs"]
mod cost;
#[path = "../../../plug-runtime/src/budget/layout.rs"]
mod layout;
#[path = "../../../plug-runtime/src/budget/shapes.rs"]
mod shapes;
#[path = "../../../plug-runtime/src/budget/walk.rs"]
mod walk;

/// The requests of a method.
pub struct Requests {
    shapes: shapes::Shapes,
    root: usize,
}

impl Requests {
    pub fn of(service: &str, descriptors: &[u8], method: &str) -> Requests {
        let (shapes, methods) = shapes::read(service, descriptors).expect("it is described");
        Requests { shapes, root: methods[method].request.expect("it is described") }
    }

    /// How large the struct of one is.
    pub fn size(&self) -> usize {
        self.shapes.get(self.root).size
    }

    /// What one takes, counted to its end.
    pub fn memory(&self, message: &[u8]) -> usize {
        let worst = walk::memory(&self.shapes, self.root, message, usize::MAX);
        let walked = walk::memory(&self.shapes, self.root, message, worst - 1);
        // Where messages are merged, what was counted is doubled.
        assert!(
            walked / 2 <= worst,
            "{walked} of {} bytes, of which {worst} are the worst",
            message.len()
        );
        walked
    }
}
