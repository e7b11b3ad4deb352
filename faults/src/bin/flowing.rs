//! A plugin that streams, and that calls its host.

fn main() -> plug::Result<()> {
    for arg in std::env::args().skip(1) {
        let Some(size) = arg.strip_prefix("--pipes=") else { panic!("there is no option {arg:?}") };
        plug_faults::evil::resize_pipes(size.parse()?)?;
    }
    plug::run(plug_faults::flow::Flowing::default())
}
