//! A plugin that streams, and that calls its host.

fn main() -> plug::Result<()> {
    plug::run(plug_faults::flow::Flowing::default())
}
