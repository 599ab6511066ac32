//! Validation errors with their field paths, worded as `k8s.io/apimachinery/pkg/util/validation/field` words them.

use serde_json::Value;

use crate::error::{ApiError, Subject};

/// The errors of one validation, in the order they were found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct FieldErrors(Vec<FieldError>);

/// One error: the cause's reason, its message and the path of the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldError {
    pub(crate) reason: &'static str,
    pub(crate) field: String,
    pub(crate) message: String,
}

impl FieldErrors {
    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &FieldError> {
        self.0.iter()
    }

    fn push(&mut self, reason: &'static str, field: &str, message: String) {
        self.0.push(FieldError { reason, field: field.to_owned(), message });
    }

    /// A value that is not acceptable.
    pub(crate) fn invalid(&mut self, field: &str, value: impl Into<Value>, detail: &str) {
        let value: Value = value.into();
        self.push("FieldValueInvalid", field, format!("Invalid value: {value}: {detail}"));
    }

    /// A value that is not acceptable and too large to print.
    pub(crate) fn invalid_without_value(&mut self, field: &str, detail: &str) {
        self.push("FieldValueInvalid", field, format!("Invalid value: {detail}"));
    }

    /// A field that must be set.
    pub(crate) fn required(&mut self, field: &str, detail: &str) {
        let message = if detail.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {detail}")
        };
        self.push("FieldValueRequired", field, message);
    }

    /// A value outside an enumeration.
    pub(crate) fn not_supported(
        &mut self,
        field: &str,
        value: impl Into<Value>,
        supported: &[&str],
    ) {
        let value: Value = value.into();
        let supported: Vec<String> = supported.iter().map(|one| format!("\"{one}\"")).collect();
        let message =
            format!("Unsupported value: {value}: supported values: {}", supported.join(", "));
        self.push("FieldValueNotSupported", field, message);
    }

    /// A value that may be used once only.
    pub(crate) fn duplicate(&mut self, field: &str, value: impl Into<Value>) {
        let value: Value = value.into();
        self.push("FieldValueDuplicate", field, format!("Duplicate value: {value}"));
    }

    /// A value that refers to something that does not exist.
    pub(crate) fn not_found(&mut self, field: &str, value: impl Into<Value>) {
        let value: Value = value.into();
        self.push("FieldValueNotFound", field, format!("Not found: {value}"));
    }

    /// A field that may not be set here.
    pub(crate) fn forbidden(&mut self, field: &str, detail: &str) {
        self.push("FieldValueForbidden", field, format!("Forbidden: {detail}"));
    }

    /// A text above its limit.
    pub(crate) fn too_long(&mut self, field: &str, limit_bytes: usize) {
        self.push(
            "FieldValueTooLong",
            field,
            format!("Too long: may not be more than {limit_bytes} bytes"),
        );
    }

    /// A list above its limit.
    pub(crate) fn too_many(&mut self, field: &str, found: usize, limit: usize) {
        self.push(
            "FieldValueTooMany",
            field,
            format!("Too many: {found}: must have at most {limit} items"),
        );
    }

    /// An integer that must not be negative.
    pub(crate) fn nonnegative(&mut self, field: &str, value: Option<i64>) {
        if let Some(value) = value.filter(|value| *value < 0) {
            self.invalid(field, value, "must be greater than or equal to 0");
        }
    }

    /// A field that may not change.
    pub(crate) fn immutable(&mut self, field: &str, new: &Value, old: &Value) {
        if new != old {
            self.invalid(field, new.clone(), "field is immutable");
        }
    }

    /// Each of `messages` as an invalid value.
    pub(crate) fn invalid_each(&mut self, field: &str, value: &str, messages: Vec<String>) {
        for message in messages {
            self.invalid(field, value, &message);
        }
    }

    /// The 422 answer, if there are errors.
    pub(crate) fn into_result(self, subject: Subject<'_>) -> Result<(), ApiError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let causes: Vec<(String, String, String)> = self
            .0
            .into_iter()
            .map(|error| (error.reason.to_owned(), error.message, error.field))
            .collect();
        Err(ApiError::invalid(subject, &causes))
    }
}
