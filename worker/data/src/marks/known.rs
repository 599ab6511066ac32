//! Marks for templates that have none, by the SHA-256 of a template without outer white space.
//!
//! The templates themselves are on the hub, with their models. This table only says where in them
//! the assistant speaks, as edits that insert `{% generation %}`. The rendered text stays the same,
//! byte for byte; a span ends with the stop token, and the newline after it is not trained. A
//! template whose spans are proven by its own prefixes needs no entry. `tests/tests/masks` checks
//! every entry against `transformers`.

use Edit::{Close, Open, Swap, Wrap};

/// Templates that take the same edits.
pub(super) struct Known {
    /// The models that ship each template, and its hash.
    pub(super) templates: &'static [(&'static str, &'static str)],
    edits: &'static [Edit],
}

/// A change of the template's text at every occurrence of the edit's first text.
enum Edit {
    /// The assistant starts to speak before this text.
    Open(&'static str),
    /// The assistant stops speaking after this text.
    Close(&'static str),
    /// The assistant says this text.
    Wrap(&'static str),
    /// The first text is replaced by the second, in which a mark has its place.
    Swap(&'static str, &'static str),
}

const OPEN: &str = "{%- generation %}";
const CLOSE: &str = "{%- endgeneration %}";

impl Known {
    /// Finds the entry of the template with this hash.
    pub(super) fn find(sha256: &str) -> Option<&'static Known> {
        KNOWN.iter().find(|known| known.templates.iter().any(|(_, hash)| *hash == sha256))
    }

    /// The template with marks added.
    pub(super) fn apply(&self, template: &str) -> String {
        self.edits.iter().fold(template.to_owned(), |text, edit| match edit {
            Open(at) => text.replace(at, &[OPEN, at].concat()),
            Close(at) => text.replace(at, &[at, CLOSE].concat()),
            Wrap(at) => text.replace(at, &[OPEN, at, CLOSE].concat()),
            Swap(at, by) => text.replace(at, by),
        })
    }
}

const KNOWN: [Known; 12] = [
    Known {
        templates: &[
            ("HuggingFaceTB/SmolLM2-*-Instruct", "872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788"),
        ],
        edits: &[
            Swap(
                "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}",
                "{{'<|im_start|>' + message['role'] + '\n'}}\
                 {% if message['role'] == 'assistant' %}\
                 {% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}\
                 {% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}",
            ),
        ],
    },
    Known {
        templates: &[
            ("Qwen/Qwen3-*, April 2025", "87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5"),
            ("Qwen/Qwen3-*", "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8"),
        ],
        edits: &[
            Swap(
                r"{%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last",
                r"{{- '<|im_start|>assistant\n' }}{%- generation %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last",
            ),
            Swap(r"{{- '<|im_start|>' + message.role + '\n<think>", r"{{- '<think>"),
            Swap(r"{{- '<|im_start|>' + message.role + '\n' + content }}", "{{- content }}"),
            Swap(
                r#"{{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}"#,
                r#"{{- '<|im_end|>' }}{%- endgeneration %}{{- '\n' }}
    {%- elif message.role == "tool" %}"#,
            ),
        ],
    },
    Known {
        templates: &[
            ("Qwen/QwQ-32B", "cb2d7aa140bed098f4ac8ab1a403980e6768d58ec95ef701668fc7dd017e0762"),
        ],
        edits: &[
            Swap(
                r"{{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}",
                r"{{- '<|im_start|>assistant\n' }}{%- generation %}{{- content + '<|im_end|>' }}
        {%- endgeneration %}{{- '\n' }}",
            ),
            Swap(
                "{{- '<|im_start|>' + message.role }}",
                r"{{- '<|im_start|>assistant\n' }}{%- generation %}",
            ),
            Swap(r"{{- '\n' + content }}", "{{- content }}"),
            Swap(
                r"{{- '\n<tool_call>",
                r"{{- '\n' if message.content or not loop.first else '' }}{{- '<tool_call>",
            ),
            Swap(
                r#"{{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}"#,
                r#"{{- '<|im_end|>' }}{%- endgeneration %}{{- '\n' }}
    {%- elif message.role == "tool" %}"#,
            ),
        ],
    },
    Known {
        templates: &[
            ("Qwen/Qwen3.5-4B and larger", "a4aee8afcf2e0711942cf848899be66016f8d14a889ff9ede07bca099c28f715"),
            ("Qwen/Qwen3.5-2B and smaller", "273d8e0e683b885071fb17e08d71e5f2a5ddfb5309756181681de4f5a1822d80"),
            ("Qwen/Qwen3.6-*", "e84f32a23fdda27689f868aa4a1a5621f41133e51a48d7f3efcbea2839574259"),
            ("Qwen/Qwen3.8-27B", "c3cf9e34abf4f9e36c2d72165aa9c132d3e2a725b6c2586aaa3a8af9d7a81041"),
        ],
        // The variants differ in when they keep the thinking.
        edits: &[
            Swap(
                "{%- if loop.index0 > ns.last_query_index %}",
                r"{{- '<|im_start|>assistant\n' }}{%- generation %}
        {%- if loop.index0 > ns.last_query_index %}",
            ),
            Swap(
                "{%- if (preserve_thinking is defined and preserve_thinking is true) or",
                r"{{- '<|im_start|>assistant\n' }}{%- generation %}
        {%- if (preserve_thinking is defined and preserve_thinking is true) or",
            ),
            Swap(
                "{%- if preserve_thinking is undefined or",
                r"{{- '<|im_start|>assistant\n' }}{%- generation %}
        {%- if preserve_thinking is undefined or",
            ),
            Swap(r"{{- '<|im_start|>' + message.role + '\n<think>", r"{{- '<think>"),
            Swap(r"{{- '<|im_start|>' + message.role + '\n' + content }}", "{{- content }}"),
            Swap(
                r#"{{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}"#,
                r#"{{- '<|im_end|>' }}{%- endgeneration %}{{- '\n' }}
    {%- elif message.role == "tool" %}"#,
            ),
        ],
    },
    Known {
        templates: &[
            ("microsoft/Phi-3-*", "dcaee66df77bfbb789ec541fe713218da30225a526f1db97138fc39ee6dc56aa"),
            ("microsoft/Phi-3.5-*", "78d976a442bcde2f0be15aafbb8e3050e1104f86732266f68403251b89982a90"),
        ],
        edits: &[
            Swap(
                "'<|assistant|>\n' + message['content'] + '<|end|>\n'",
                "'<|assistant|>\n' }}{% generation %}{{ message['content'] + '<|end|>' }}\
                 {% endgeneration %}{{ '\n'",
            ),
            Swap(
                "{% else %}{{ eos_token }}",
                "{% elif messages[-1]['role'] == 'assistant' %}\
                 {% generation %}{{ eos_token }}{% endgeneration %}{% else %}{{ eos_token }}",
            ),
        ],
    },
    Known {
        templates: &[
            ("deepseek-ai/DeepSeek-R1-Distill-*", "56a1447ad31926fdc21fb07e56e5642bd9c850c4f52d8c8af7bbe5f079a84f5f"),
        ],
        edits: &[
            Open("{%- for tool in message['tool_calls']%}"),
            Swap(
                "{%- endfor %}{%- endif %}{%- if message",
                "{%- endfor %}{%- endgeneration %}{%- endif %}{%- if message",
            ),
            Wrap("{{'<｜tool▁outputs▁end｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}"),
            Wrap("{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}"),
        ],
    },
    Known {
        templates: &[
            ("deepseek-ai/DeepSeek-R1", "563b1ce7d61d50a9b4c7439a912a1116f095b712df5b5e4d3e1116049874eb64"),
        ],
        edits: &[
            Open("{%- for tool in message['tool_calls'] %}"),
            Close("{{'<｜tool▁calls▁end｜><｜end▁of▁sentence｜>'}}"),
            Wrap("{{'<｜tool▁outputs▁end｜>' + message['content'] + '<｜end▁of▁sentence｜>'}}"),
            Wrap("{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}"),
        ],
    },
    Known {
        templates: &[(
            "mistralai/Mistral-Nemo-Instruct-2407",
            "e7deee034838db2bfc7487788a3013d8a307ab69f72f3c54a85f06fd76007d4e",
        )],
        edits: &[
            Open(r#"{{- "[TOOL_CALLS][" }}"#),
            Swap(
                r#"{%- endfor %}
    {%- elif message["role"] == "assistant" %}"#,
                r#"{%- endfor %}{%- endgeneration %}
    {%- elif message["role"] == "assistant" %}"#,
            ),
            Wrap(r#"{{- message["content"] + eos_token}}"#),
        ],
    },
    Known {
        templates: &[
            ("openai/gpt-oss-*", "a4c9919cbbd4acdd51ccffe22da049264b1b73e59055fa58811a99efbd7c8146"),
        ],
        edits: &[
            Open(r#"{%- if "tool_calls" in message %}"#),
            Swap(
                "{%- elif message.role == 'tool' -%}",
                "{%- endgeneration %}{%- elif message.role == 'tool' -%}",
            ),
        ],
    },
    Known {
        templates: &[
            ("meta-models/Muse-Glimmer-30B", "6cd0e94d9b489fdb9a000743791f20e7e52b62c1e5cbb66fcc91c6716595223a"),
        ],
        edits: &[
            Open("{%- if message.get('reasoning_content') -%}"),
            Close(
                "{{- ('<|eot|>' if end_turn else '<|eom|>') -}}
        {%- endif -%}",
            ),
        ],
    },
    Known {
        templates: &[
            ("nvidia/NVIDIA-Nemotron-3-Nano-*", "43a92aacc2e169bb37055e4d8b0df31edfdc8657d8c387fcf98254cb246e626a"),
            ("nvidia/NVIDIA-Nemotron-3-Super-*", "3b74d76d8b903752e764cae114ae8ae2f24cd260466cf672570c745219573d28"),
            ("nvidia/NVIDIA-Nemotron-3-Ultra-*", "82753bef5cedc4932c1ed509b5c9a12be680fd86d1adb65bc3f7398d11c8eebc"),
            ("nvidia/NVIDIA-Nemotron-3.5-*", "58933db77d3099b4f78c55a38347a72e1ea05b97d6bd8f38775303dc0194e0a9"),
        ],
        edits: &[
            Open("{%- set include_content ="),
            Swap(
                r"{%- endfor %}
                {{- '<|im_end|>\n' }}",
                r"{%- endfor %}{{- '<|im_end|>' }}{%- endgeneration %}{{- '\n' }}",
            ),
            Swap(
                r"assistant\n' ~ (content | default('', true) | string | trim) ~ '<|im_end|>\n' }}",
                r"assistant\n' }}{%- generation %}
                {{- (content | default('', true) | string | trim) ~ '<|im_end|>' }}
                {%- endgeneration %}{{- '\n' }}",
            ),
            Swap(
                r"assistant\n' ~ c ~ '<|im_end|>\n' }}",
                r"assistant\n' }}{%- generation %}{{- c ~ '<|im_end|>' }}
                {%- endgeneration %}{{- '\n' }}",
            ),
            Swap(
                r"assistant\n<|im_end|>\n' }}",
                r"assistant\n' }}{%- generation %}{{- '<|im_end|>' }}
                {%- endgeneration %}{{- '\n' }}",
            ),
        ],
    },
    Known {
        templates: &[
            ("google/diffusiongemma-26B-A4B-it", "9aeb7eac68ad87bba7567e9d4597ff203e5609f1b427d9e823437d0142cc61bf"),
        ],
        edits: &[
            Wrap(r"{{- '<|channel>thought\n' + thinking_text + '\n<channel|>' -}}"),
            Open("{{- '<|tool_call>call:' + function['name'] + '{' -}}"),
            Close("{{- '}<tool_call|>' -}}"),
            Swap(
                "{{- captured_content -}}",
                "{%- if role == 'model' -%}{%- generation %}{{- captured_content -}}{%- endgeneration %}
                {%- else -%}{{- captured_content -}}{%- endif -%}",
            ),
            Swap(
                r"{{- '<turn|>\n' -}}
        {%- endif -%}",
                r"{%- if role == 'model' -%}{%- generation %}{{- '<turn|>' -}}{%- endgeneration %}
                {{- '\n' -}}{%- else -%}{{- '<turn|>\n' -}}{%- endif -%}
        {%- endif -%}",
            ),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hash_is_listed_once_and_has_edits() {
        let hashes: Vec<&str> =
            KNOWN.iter().flat_map(|known| known.templates).map(|(_, hash)| *hash).collect();
        for (i, hash) in hashes.iter().enumerate() {
            assert!(hash.len() == 64 && !hashes[i + 1..].contains(hash), "{hash}");
        }
        assert!(KNOWN.iter().all(|known| !known.edits.is_empty()));
    }
}
