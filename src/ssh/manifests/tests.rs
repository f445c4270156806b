use std::path::Path;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service as CoreService, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml::Value;

use super::*;
use crate::ssh::config::{Config, HostKey};

fn options() -> Options {
    Options {
        name: "kpf-gateway".to_owned(),
        namespace: "ssh".to_owned(),
        image: "registry.example:5000/kpf:0.1.0".to_owned(),
        replicas: 2,
        service: Service::default(),
        port: 22,
        users: Vec::new(),
        groups: Vec::new(),
        constrained: false,
        config: None,
        drain: Config::DRAIN,
    }
}

fn documents(options: &Options) -> Vec<Value> {
    let text = options.manifests().unwrap();
    assert!(!text.contains("${"), "{text}");
    serde_yaml::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).unwrap())
        .collect()
}

/// The one object of this kind, as Kubernetes' own type has it, and nothing that the type doesn't know.
fn object<T: DeserializeOwned + serde::Serialize>(options: &Options, kind: &str, name: &str) -> T {
    let is_it = |it: &Value| it["kind"] == kind && it["metadata"]["name"] == name;
    let mut found = documents(options).into_iter().filter(is_it);
    let value = found.next().unwrap();
    assert!(found.next().is_none());
    let typed: T = serde_yaml::from_value(value.clone()).unwrap();
    let known = serde_json::to_value(&typed).unwrap();
    let written: serde_json::Value = serde_yaml::from_value(value).unwrap();
    contains(&known, &written);
    typed
}

fn contains(known: &serde_json::Value, written: &serde_json::Value) {
    use serde_json::Value::{Array, Object};
    match (known, written) {
        (Object(known), Object(written)) => {
            for (key, value) in written {
                contains(known.get(key).unwrap_or_else(|| panic!("{key}?")), value);
            }
        }
        (Array(known), Array(written)) => {
            assert_eq!(known.len(), written.len());
            known
                .iter()
                .zip(written)
                .for_each(|(known, written)| contains(known, written));
        }
        _ => assert_eq!(known, written),
    }
}

#[test]
fn every_object_is_what_kubernetes_takes() {
    let all = options();
    let name = &all.name;
    object::<Namespace>(&all, "Namespace", "ssh");
    object::<ServiceAccount>(&all, "ServiceAccount", name);
    object::<ClusterRoleBinding>(&all, "ClusterRoleBinding", name);
    object::<Role>(&all, "Role", name);
    object::<RoleBinding>(&all, "RoleBinding", name);
    let config = object::<ConfigMap>(&all, "ConfigMap", name).data.unwrap();
    let config = Config::parse(
        Path::new("/etc/kpf/gateway.yaml"),
        config["gateway.yaml"].as_bytes(),
    );
    let config = config.unwrap();
    let HostKey::Secret {
        namespace,
        name: secret,
        ..
    } = config.host_key
    else {
        panic!("replicas share a key");
    };
    assert_eq!(namespace, "ssh");
    let role = object::<Role>(&all, "Role", name).rules.unwrap();
    assert_eq!(role[1].resource_names.as_ref(), Some(&vec![secret]));
    assert_eq!(config.drain, all.drain);
    object::<ConfigMap>(&all, "ConfigMap", &format!("{name}-users"));
    object::<CoreService>(&all, "Service", name);
    object::<PodDisruptionBudget>(&all, "PodDisruptionBudget", name);
    object::<NetworkPolicy>(&all, "NetworkPolicy", name);
    let deployment = object::<Deployment>(&all, "Deployment", name).spec.unwrap();
    assert_eq!(deployment.replicas, Some(2));
    let pod = deployment.template.spec.unwrap();
    assert_eq!(pod.termination_grace_period_seconds, Some(310));
    assert_eq!(pod.containers[0].image.as_ref(), Some(&all.image));
    assert_eq!(documents(&all).len(), 12);
}

fn rules(options: &Options) -> Vec<PolicyRule> {
    object::<ClusterRole>(options, "ClusterRole", &options.name)
        .rules
        .unwrap()
}

/// A request without an identity is refused: the account itself may do nothing but act as somebody else.
#[test]
fn the_gateways_own_account_may_only_impersonate() {
    let mut narrow = options();
    narrow.users = vec!["alice".to_owned(), "bob: {x}".to_owned()];
    narrow.groups = vec!["ml".to_owned()];
    for constrained in [false, true] {
        for mut options in [options(), narrow.clone()] {
            options.constrained = constrained;
            for rule in rules(&options) {
                assert!(
                    rule.verbs
                        .iter()
                        .all(|verb| verb.starts_with("impersonate"))
                );
                for resource in rule.resources.iter().flatten() {
                    let names = match &resource[..] {
                        "users" => &options.users,
                        "groups" => &options.groups,
                        _ => continue,
                    };
                    assert_eq!(&rule.resource_names.clone().unwrap_or_default(), names);
                }
            }
            let names_groups =
                |rule: &PolicyRule| rule.resources.iter().flatten().any(|it| it == "groups");
            let groups = rules(&options).iter().any(names_groups);
            assert_eq!(groups, !options.groups.is_empty());
        }
    }
}

#[test]
fn the_configuration_stays_as_it_is() {
    let mut options = options();
    let config = "a: |\n  ${name}\n\n---\nb: \"# ${image}\"\n";
    options.config = Some(config.to_owned());
    let text = options.manifests().unwrap();
    let all: Vec<_> = serde_yaml::Deserializer::from_str(&text)
        .map(|document| Value::deserialize(document).unwrap())
        .collect();
    let config_map = all.iter().find(|it| it["kind"] == "ConfigMap").unwrap();
    assert_eq!(config_map["data"]["gateway.yaml"], *config);
}

#[test]
fn what_fits_into_no_manifest_is_refused() {
    type Change = fn(&mut Options, &str);
    let wrong: [(Change, &[&str]); 4] = [
        (
            |options, value| options.name = value.to_owned(),
            &[
                "",
                "true",
                "null",
                "1",
                "a.b",
                "A",
                "x\ny",
                "a: b",
                "-a",
                &"a".repeat(51),
            ],
        ),
        (
            |options, value| options.namespace = value.to_owned(),
            &["", "no/where", "on\u{1b}"],
        ),
        (
            |options, value| options.image = value.to_owned(),
            &["", "a b", "1.5", "x:", "x\n  y: z", "{}", "-x"],
        ),
        (
            |options, value| options.users = vec![value.to_owned()],
            &["", "system:admin", "a\u{0}"],
        ),
    ];
    for (change, values) in wrong {
        for value in values {
            let mut options = options();
            change(&mut options, value);
            let error = options.manifests().expect_err(value).to_string();
            assert!(
                error.starts_with("--") && !error.contains(char::is_control),
                "{error}"
            );
        }
    }
}
