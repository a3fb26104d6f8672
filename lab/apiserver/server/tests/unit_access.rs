//! Authentication and authorization as a Kubernetes client sees them: service account tokens, roles,
//! reviews.

#![expect(clippy::unwrap_used, reason = "a test panics if it cannot continue")]

use beeline_apiserver::{ApiServer, Config};
use k8s_openapi::api::authentication::v1::{
    BoundObjectReference, SelfSubjectReview, TokenRequest, TokenRequestSpec, TokenReview, TokenReviewSpec,
};
use k8s_openapi::api::authorization::v1::{
    SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};

const ROBOT: &str = r#"
apiVersion: v1
kind: ServiceAccount
metadata: {name: robot}
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {serviceAccountName: robot, containers: [{name: web, image: beeline/echo}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {a: "1"}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get, list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: robot-reads}
roleRef: {kind: Role, name: reader, apiGroup: rbac.authorization.k8s.io}
subjects: [{kind: ServiceAccount, name: robot}]
"#;

struct Lab {
    server: ApiServer,
    kubeconfig: String,
    admin: Client,
}

async fn lab() -> Lab {
    let server = ApiServer::start(Config::default()).unwrap();
    let handle = server.serve(std::net::TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let kubeconfig = server.kubeconfig(&format!("https://{}", handle.address()));
    let report = server.apply("robot.yaml", ROBOT);
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let admin = client(&kubeconfig).await;
    Lab { server, kubeconfig, admin }
}

async fn client(kubeconfig: &str) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

impl Lab {
    async fn client_with_token(&self, token: &str) -> Client {
        client(&self.kubeconfig.replace(self.server.token(), token)).await
    }

    async fn token(&self, spec: TokenRequestSpec) -> kube::Result<String> {
        let accounts: Api<ServiceAccount> = Api::default_namespaced(self.admin.clone());
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        let answer = accounts.create_token_request("robot", &PostParams::default(), &request).await?;
        Ok(answer.status.unwrap().token.unwrap())
    }

    async fn ask<Q: serde::Serialize, A: serde::de::DeserializeOwned>(&self, path: &str, question: &Q) -> A {
        ask(&self.admin, path, question).await.unwrap()
    }
}

async fn ask<Q: serde::Serialize, A: serde::de::DeserializeOwned>(
    client: &Client,
    path: &str,
    question: &Q,
) -> kube::Result<A> {
    let body = serde_json::to_vec(question).unwrap();
    let request = http::Request::post(path).header("content-type", "application/json").body(body).unwrap();
    client.request(request).await
}

fn status(error: kube::Error) -> Status {
    match error {
        kube::Error::Api(status) => *status,
        other => panic!("not an answer of the API: {other:?}"),
    }
}

/// A service account gets a token, reads what its role allows, is refused other requests, and loses
/// its token with its pod.
#[tokio::test]
async fn unit_a_service_account_does_what_its_role_allows() {
    let lab = lab().await;
    let pod = BoundObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        name: Some("web".to_owned()),
        uid: None,
    };
    let spec = TokenRequestSpec { bound_object_ref: Some(pod), ..TokenRequestSpec::default() };
    let robot = lab.client_with_token(&lab.token(spec).await.unwrap()).await;

    let maps: Api<ConfigMap> = Api::default_namespaced(robot.clone());
    assert!(maps.list(&ListParams::default()).await.unwrap().iter().any(|map| map.name_any() == "settings"));
    let change = Patch::Merge(json!({"data": {"a": "2"}}));
    let refused = status(maps.patch("settings", &PatchParams::default(), &change).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (403, "Forbidden"));
    let expected = "configmaps \"settings\" is forbidden: User \"system:serviceaccount:default:robot\" cannot patch \
                    resource \"configmaps\" in API group \"\" in the namespace \"default\"";
    assert_eq!(refused.message, expected);
    let details = refused.details.unwrap();
    assert_eq!((details.name.as_str(), details.kind.as_str()), ("settings", "configmaps"));
    let nodes: Api<Node> = Api::all(robot.clone());
    let refused = status(nodes.list(&ListParams::default()).await.unwrap_err());
    assert!(refused.message.ends_with("in API group \"\" at the cluster scope"), "{}", refused.message);
    assert!(robot.list_api_groups().await.is_ok(), "discovery is for every user");

    let who: SelfSubjectReview =
        ask(&robot, "/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({})).await.unwrap();
    let user = who.status.unwrap().user_info.unwrap();
    assert_eq!(user.username.as_deref(), Some("system:serviceaccount:default:robot"));
    assert_eq!(user.extra.unwrap()["authentication.kubernetes.io/pod-name"], ["web"]);

    let pods: Api<Pod> = Api::default_namespaced(lab.admin.clone());
    pods.delete("web", &DeleteParams::default().grace_period(0)).await.unwrap();
    assert_eq!(status(maps.list(&ListParams::default()).await.unwrap_err()).code, 401);
}

#[tokio::test]
async fn unit_token_requests_are_validated() {
    let lab = lab().await;
    let short = TokenRequestSpec { expiration_seconds: Some(60), ..TokenRequestSpec::default() };
    let refused = status(lab.token(short).await.unwrap_err());
    assert_eq!(
        (refused.code, refused.details.unwrap().causes[0].field.as_str()),
        (422, "spec.expirationSeconds")
    );
    let reference = |kind: &str, name: &str, uid: Option<&str>| TokenRequestSpec {
        bound_object_ref: Some(BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some(kind.to_owned()),
            name: Some(name.to_owned()),
            uid: uid.map(str::to_owned),
        }),
        ..TokenRequestSpec::default()
    };
    for (spec, code) in [
        (reference("Pod", "none", None), 404),
        (reference("Pod", "web", Some("another")), 409),
        (reference("ConfigMap", "settings", None), 400),
    ] {
        assert_eq!(status(lab.token(spec).await.unwrap_err()).code, code);
    }
    let accounts: Api<ServiceAccount> = Api::namespaced(lab.admin.clone(), "kube-system");
    let request = TokenRequest::default();
    let missing = accounts.create_token_request("robot", &PostParams::default(), &request).await;
    assert_eq!(status(missing.unwrap_err()).code, 404);
}

#[tokio::test]
async fn unit_token_and_access_reviews() {
    let lab = lab().await;
    let vault = TokenRequestSpec { audiences: Some(vec!["vault".to_owned()]), ..TokenRequestSpec::default() };
    let token = lab.token(vault).await.unwrap();
    let whose = async |audiences: &[&str]| -> TokenReview {
        let audiences = Some(audiences.iter().map(|&one| one.to_owned()).collect());
        let spec = TokenReviewSpec { audiences, token: token.clone() };
        let question = TokenReview { spec, ..TokenReview::default() };
        lab.ask("/apis/authentication.k8s.io/v1/tokenreviews", &question).await
    };
    let yes = whose(&["vault", "other"]).await.status.unwrap();
    assert_eq!((yes.authenticated, yes.audiences), (Some(true), Some(vec!["vault".to_owned()])));
    let no = whose(&[]).await.status.unwrap();
    assert_ne!(no.authenticated, Some(true));
    assert!(no.error.unwrap().contains("vault"));
    let maps: Api<ConfigMap> = Api::default_namespaced(lab.client_with_token(&token).await);
    assert_eq!(status(maps.list(&ListParams::default()).await.unwrap_err()).code, 401);

    let may = async |user: &str, verb: &str| {
        let resource = json!({"verb": verb, "resource": "configmaps", "namespace": "default"});
        let question = json!({"spec": {"user": user, "resourceAttributes": resource}});
        let answer: SubjectAccessReview =
            lab.ask("/apis/authorization.k8s.io/v1/subjectaccessreviews", &question).await;
        answer.status.unwrap()
    };
    let robot = "system:serviceaccount:default:robot";
    let yes = may(robot, "list").await;
    let expected =
        "RBAC: allowed by RoleBinding \"robot-reads/default\" of Role \"reader\" to ServiceAccount \"robot\"";
    assert_eq!((yes.allowed, yes.reason.as_deref()), (true, Some(expected)));
    assert!(!may(robot, "delete").await.allowed);
    assert!(!may("jane", "list").await.allowed);

    let myself = json!({"spec": {"resourceAttributes": {"verb": "delete", "resource": "nodes"}}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let admin: SelfSubjectAccessReview = lab.ask(path, &myself).await;
    assert!(admin.status.unwrap().allowed);
    let robot = lab.client_with_token(&lab.token(TokenRequestSpec::default()).await.unwrap()).await;
    let answer: SelfSubjectAccessReview = ask(&robot, path, &myself).await.unwrap();
    assert!(!answer.status.unwrap().allowed);
    let rules: SelfSubjectRulesReview = ask(
        &robot,
        "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
        &json!({"spec": {"namespace": "default"}}),
    )
    .await
    .unwrap();
    let rules = rules.status.unwrap().resource_rules;
    assert!(rules.iter().any(|rule| rule.verbs == ["get", "list"]), "{rules:?}");
}

#[tokio::test]
async fn unit_requests_need_a_token_and_the_admin_may_impersonate() {
    let lab = lab().await;
    let anonymous =
        lab.kubeconfig.lines().filter(|line| !line.contains("token:")).collect::<Vec<_>>().join("\n");
    let anonymous = client(&anonymous.replace("  user:\n", "  user: {}\n")).await;
    let maps: Api<ConfigMap> = Api::default_namespaced(anonymous.clone());
    let refused = status(maps.list(&ListParams::default()).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (401, "Unauthorized"));
    assert!(anonymous.apiserver_version().await.is_ok(), "the version is for everybody");

    let speak = async |client: &Client, user: &str| {
        let request = http::Request::get("/api/v1/nodes").header("impersonate-user", user);
        let answer = client.request::<Value>(request.body(Vec::new()).unwrap()).await;
        answer.map(|_| String::new()).unwrap_or_else(|error| status(error).message)
    };
    assert!(speak(&lab.admin, "jane").await.contains("User \"jane\" cannot list resource \"nodes\""));
    let robot = lab.client_with_token(&lab.token(TokenRequestSpec::default()).await.unwrap()).await;
    assert!(speak(&robot, "jane").await.contains("cannot impersonate resource \"users\""));
}

#[tokio::test]
async fn unit_the_jwks_is_published() {
    let lab = lab().await;
    let get = async |path: &str| -> Value {
        lab.admin.request(http::Request::get(path).body(Vec::new()).unwrap()).await.unwrap()
    };
    assert_eq!(get("/openid/v1/jwks").await["keys"][0]["alg"], "ES256");
    assert_eq!(
        get("/.well-known/openid-configuration").await["id_token_signing_alg_values_supported"][0],
        "ES256"
    );
}
