//! Syntax of names, labels, annotations and other short texts, with Kubernetes' messages.
//!
//! Each function returns what is wrong with a text; an empty list means that it is valid.

const LABEL_LIMIT: usize = 63;
const SUBDOMAIN_LIMIT: usize = 253;

const LABEL_MESSAGE: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
    and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation \
    is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN_MESSAGE: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, \
    '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation \
    is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL_1035_MESSAGE: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start \
    with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used \
    for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_MESSAGE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start \
    and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
    '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE_MESSAGE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', \
    '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
    regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY_MESSAGE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
    'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

/// The message for a text above `limit` bytes.
fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

fn lower_alphanumeric(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn is_label(text: &str) -> bool {
    text.starts_with(lower_alphanumeric)
        && text.ends_with(lower_alphanumeric)
        && text.chars().all(|c| lower_alphanumeric(c) || c == '-')
}

fn is_name_part(text: &str) -> bool {
    let alphanumeric = |c: char| c.is_ascii_alphanumeric();
    text.starts_with(alphanumeric)
        && text.ends_with(alphanumeric)
        && text.chars().all(|c| alphanumeric(c) || matches!(c, '-' | '_' | '.'))
}

/// A DNS-1123 label, such as the name of a container.
pub(crate) fn dns_label(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > LABEL_LIMIT {
        problems.push(too_long(LABEL_LIMIT));
    }
    if !is_label(text) {
        problems.push(LABEL_MESSAGE.to_owned());
    }
    problems
}

/// A DNS-1123 subdomain, such as the name of a pod.
pub(crate) fn dns_subdomain(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > SUBDOMAIN_LIMIT {
        problems.push(too_long(SUBDOMAIN_LIMIT));
    }
    if !text.split('.').all(is_label) {
        problems.push(SUBDOMAIN_MESSAGE.to_owned());
    }
    problems
}

/// A DNS-1035 label, such as the name of a Service.
pub(crate) fn dns_1035_label(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > LABEL_LIMIT {
        problems.push(too_long(LABEL_LIMIT));
    }
    if !(is_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase())) {
        problems.push(LABEL_1035_MESSAGE.to_owned());
    }
    problems
}

/// A qualified name, such as the key of a label: `[PREFIX/]NAME`.
pub(crate) fn qualified(text: &str) -> Vec<String> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let mut problems = Vec::new();
    if name.contains('/') {
        let message = "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and \
            end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
            validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' \
            (e.g. 'example.com/MyName')";
        return vec![message.to_owned()];
    }
    match prefix {
        Some("") => problems.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => {
            problems.extend(dns_subdomain(prefix).iter().map(|one| format!("prefix part {one}")))
        }
        None => {}
    }
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_LIMIT {
        problems.push(format!("name part {}", too_long(LABEL_LIMIT)));
    }
    if !is_name_part(name) {
        problems.push(QUALIFIED_MESSAGE.to_owned());
    }
    problems
}

/// The value of a label.
pub(crate) fn label_value(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > LABEL_LIMIT {
        problems.push(too_long(LABEL_LIMIT));
    }
    if !text.is_empty() && !is_name_part(text) {
        problems.push(LABEL_VALUE_MESSAGE.to_owned());
    }
    problems
}

/// The name of an environment variable (relaxed since 1.34: printable ASCII other than `=`).
pub(crate) fn env_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.chars().all(|c| (' '..='~').contains(&c) && c != '=') {
        return Vec::new();
    }
    let message = "a valid environment variable name must consist only of printable ASCII characters other than '='";
    vec![message.to_owned()]
}

/// A key of a ConfigMap or Secret.
pub(crate) fn config_key(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > SUBDOMAIN_LIMIT {
        problems.push(too_long(SUBDOMAIN_LIMIT));
    }
    if text.is_empty()
        || !text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
    {
        problems.push(CONFIG_KEY_MESSAGE.to_owned());
    }
    match text {
        "." => problems.push("must not be '.'".to_owned()),
        ".." => problems.push("must not be '..'".to_owned()),
        text if text.starts_with("..") => problems.push("must not start with '..'".to_owned()),
        _ => {}
    }
    problems
}

/// The name of a port of a container or Service.
pub(crate) fn port_name(text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if text.len() > 15 {
        problems.push("must be no more than 15 characters".to_owned());
    }
    if !text.chars().all(|c| lower_alphanumeric(c) || c == '-') {
        problems.push(
            "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned(),
        );
    }
    if !text.chars().any(|c| c.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

/// A port number.
pub(crate) fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) {
        Vec::new()
    } else {
        vec!["must be between 1 and 65535, inclusive".to_owned()]
    }
}

/// The name of an object without its last character when it ends with `-`, as `generateName` is checked.
pub(crate) fn mask_trailing_dash(prefix: &str) -> String {
    match prefix.strip_suffix('-') {
        Some(stem) if !stem.is_empty() => format!("{stem}a"),
        Some(_) | None => prefix.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A check and a text.
    type Case = (fn(&str) -> Vec<String>, &'static str);

    #[test]
    fn names_follow_their_grammar() {
        let valid: [Case; 8] = [
            (dns_label, "a-1"),
            (dns_subdomain, "a.b-c"),
            (dns_1035_label, "a1"),
            (qualified, "example.com/My_Name"),
            (label_value, ""),
            (env_name, "A.B-C"),
            (config_key, "a_B.c"),
            (port_name, "http-2"),
        ];
        for (check, text) in valid {
            assert_eq!(check(text), [] as [&str; 0], "{text}");
        }
        let invalid: [Case; 10] = [
            (dns_label, "A"),
            (dns_label, "-a"),
            (dns_subdomain, "a..b"),
            (dns_1035_label, "1a"),
            (qualified, "a/b/c"),
            (qualified, "/b"),
            (label_value, "-"),
            (env_name, "A=B"),
            (config_key, "../x"),
            (port_name, "123"),
        ];
        for (check, text) in invalid {
            assert!(!check(text).is_empty(), "{text}");
        }
    }
}
