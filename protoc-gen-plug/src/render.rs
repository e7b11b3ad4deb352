//! The items of messages as text, with the blank lines that a formatter of syntax trees leaves out.

use syn::visit_mut::{self, VisitMut};

/// Stands where a blank line is to be. No comment holds it: control characters are taken out of them.
const BLANK: &str = "\u{1}";

/// An item that prost-build made, as text.
pub(crate) fn message_item(item: &syn::Item) -> String {
    let mut item = item.clone();
    // Messages are as prost writes them and as the `.proto` documents them.
    if let Some(attrs) = attributes(&mut item) {
        let after_docs =
            attrs.iter().position(|attr| !attr.path().is_ident("doc")).unwrap_or(attrs.len());
        attrs.insert(after_docs, syn::parse_quote!(#[allow(clippy::all, missing_docs)]));
    }
    Breathe.visit_item_mut(&mut item);
    let file = syn::File { shebang: None, attrs: Vec::new(), items: vec![item] };
    let mut out = String::new();
    for line in prettyplease::unparse(&file).lines() {
        if line.trim_start().strip_prefix("///") != Some(BLANK) {
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}

/// The name that an item has among types and modules.
pub(crate) fn item_name(item: &syn::Item) -> Option<String> {
    match item {
        syn::Item::Struct(item) => Some(item.ident.to_string()),
        syn::Item::Enum(item) => Some(item.ident.to_string()),
        syn::Item::Mod(item) => Some(item.ident.to_string()),
        _ => None,
    }
}

/// Marks where blank lines are to be: between the items of a module and of an impl.
struct Breathe;

impl VisitMut for Breathe {
    fn visit_item_mod_mut(&mut self, module: &mut syn::ItemMod) {
        visit_mut::visit_item_mod_mut(self, module);
        let items = module.content.iter_mut().flat_map(|(_, items)| items);
        for attrs in items.skip(1).filter_map(attributes) {
            attrs.insert(0, syn::parse_quote!(#[doc = #BLANK]));
        }
    }

    fn visit_item_impl_mut(&mut self, item: &mut syn::ItemImpl) {
        for item in item.items.iter_mut().skip(1) {
            if let syn::ImplItem::Fn(function) = item {
                function.attrs.insert(0, syn::parse_quote!(#[doc = #BLANK]));
            }
        }
    }
}

fn attributes(item: &mut syn::Item) -> Option<&mut Vec<syn::Attribute>> {
    match item {
        syn::Item::Struct(item) => Some(&mut item.attrs),
        syn::Item::Enum(item) => Some(&mut item.attrs),
        syn::Item::Mod(item) => Some(&mut item.attrs),
        syn::Item::Impl(item) => Some(&mut item.attrs),
        _ => None,
    }
}
