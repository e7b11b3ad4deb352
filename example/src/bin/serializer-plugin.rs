//! A plugin that offers `example.Serializer` and writes JSON.

fn main() -> plug::Result<()> {
    plug::run(plug_example::Json)
}
