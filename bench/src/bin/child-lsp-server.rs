//! The other side of `lsp-server`.

fn main() -> anyhow::Result<()> {
    plug_bench::children::lsp()
}
