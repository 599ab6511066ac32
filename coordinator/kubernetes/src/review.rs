//! Asks the API server whose token somebody presents.

use crate::call::Call;
use crate::cluster::Cluster;
use crate::error::Error;
use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use kube::Api;
use kube::api::PostParams;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// The owner of a valid token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bearer {
    /// The name, such as `system:serviceaccount:NAMESPACE:NAME`.
    pub username: String,
    /// The groups of the user.
    pub groups: Vec<String>,
    /// The pod that the token was issued for; `None` if it is bound to no pod.
    pub pod: Option<BoundPod>,
}

/// The pod that a token is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundPod {
    /// The name of the pod.
    pub name: String,
    /// The uid of the pod.
    pub uid: String,
}

impl Cluster {
    /// Asks the API server whose token this is, and whether it is meant for `audience`. `None` for
    /// any other token.
    ///
    /// # Errors
    /// [`Error::Forbidden`] without the permission to create token reviews, which the ClusterRole
    /// `system:auth-delegator` grants; otherwise as for any request.
    pub async fn review(&self, token: &str, audience: &str) -> Result<Option<Bearer>, Error> {
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let spec = TokenReviewSpec {
            token: Some(token.to_owned()),
            audiences: Some(vec![audience.to_owned()]),
        };
        let review = TokenReview { spec, ..TokenReview::default() };
        let call = Call {
            verb: "create",
            resource: "tokenreviews.authentication.k8s.io".to_owned(),
            namespace: None,
            name: None,
        };
        let parameters = PostParams::default();
        let answer = call.expect(&self.patience, || reviews.create(&parameters, &review)).await?;
        Ok(bearer_of(answer.status.unwrap_or_default(), audience))
    }
}

/// Whose token it is, if it is valid and meant for the audience.
fn bearer_of(status: TokenReviewStatus, audience: &str) -> Option<Bearer> {
    // An authenticator that knows no audiences leaves them out, and accepts tokens for any.
    let is_meant = status.audiences.iter().flatten().any(|one| one == audience);
    if status.authenticated != Some(true) || !is_meant {
        return None;
    }
    status.user.and_then(bearer)
}

fn bearer(user: UserInfo) -> Option<Bearer> {
    let extra = user.extra.unwrap_or_default();
    let first = |key: &str| extra.get(key).and_then(|values| values.first()).cloned();
    let pod = match (first(POD_NAME), first(POD_UID)) {
        (Some(name), Some(uid)) => Some(BoundPod { name, uid }),
        _ => None,
    };
    Some(Bearer { username: user.username?, groups: user.groups.unwrap_or_default(), pod })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn only_a_valid_token_for_the_audience_has_a_bearer() {
        let status = |audiences: Value, authenticated: bool| -> TokenReviewStatus {
            let user = json!({ "username": "a", "extra": { POD_NAME: ["p"], POD_UID: ["u"] } });
            let status = json!({
                "authenticated": authenticated, "audiences": audiences, "user": user,
            });
            serde_json::from_value(status).unwrap()
        };
        let bearer = bearer_of(status(json!(["other", "muster"]), true), "muster").unwrap();
        let pod = BoundPod { name: "p".to_owned(), uid: "u".to_owned() };
        assert_eq!((bearer.username.as_str(), bearer.pod), ("a", Some(pod)));
        assert_eq!(bearer_of(status(json!(["muster"]), false), "muster"), None);
        assert_eq!(bearer_of(status(json!(["other"]), true), "muster"), None);
        assert_eq!(bearer_of(status(Value::Null, true), "muster"), None);
        assert_eq!(bearer_of(TokenReviewStatus::default(), "muster"), None);
    }
}
