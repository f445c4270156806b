//! What a cluster has, for those who don't know its names yet.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{
    Container, Namespace, Pod, PodSpec, PodTemplateSpec, ReplicationController, Service,
};
use kube::Api;
use kube::api::ListParams;
use serde::de::DeserializeOwned;

use super::target::{Kind, Target};
use super::{Cluster, RequestError};

/// What an object says of the containers and the ports that it leads to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Declared {
    /// Containers by their names, the init ones last.
    pub containers: Vec<String>,
    /// Ports that may be asked for; a service's are its own.
    pub ports: Vec<DeclaredPort>,
}

/// A TCP port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeclaredPort {
    /// Its number.
    pub number: u16,
    /// Its name, if it has one.
    pub name: Option<String>,
}

impl Cluster {
    /// The names of all objects of a kind. Pages through them; only their metadata is asked for. Cancel safe.
    ///
    /// # Errors
    /// The cluster can't be asked, or doesn't answer this.
    pub async fn names(&self, kind: Kind, namespace: &str) -> Result<Vec<String>, RequestError> {
        match kind {
            Kind::Pod => self.names_of::<Pod>(namespace).await,
            Kind::Service => self.names_of::<Service>(namespace).await,
            Kind::Deployment => self.names_of::<Deployment>(namespace).await,
            Kind::ReplicaSet => self.names_of::<ReplicaSet>(namespace).await,
            Kind::StatefulSet => self.names_of::<StatefulSet>(namespace).await,
            Kind::DaemonSet => self.names_of::<DaemonSet>(namespace).await,
            Kind::Job => self.names_of::<Job>(namespace).await,
            Kind::ReplicationController => self.names_of::<ReplicationController>(namespace).await,
        }
    }

    /// The names of all namespaces. Cancel safe.
    ///
    /// # Errors
    /// As with [`Cluster::names`]; many a role may not list them.
    pub async fn namespaces(&self) -> Result<Vec<String>, RequestError> {
        all_names(&Api::<Namespace>::all(self.client())).await
    }

    /// What an object declares. Cancel safe.
    ///
    /// # Errors
    /// There is none of this name, or the cluster can't be asked.
    pub async fn declared(&self, target: &Target) -> Result<Declared, RequestError> {
        let invalid = |error: super::target::TargetError| RequestError::Invalid(error.to_string());
        let namespace = target
            .namespace(self.namespace_flag(), self.namespace())
            .map_err(invalid)?;
        let name = target.name();
        let template = |template: Option<PodTemplateSpec>| template.and_then(|it| it.spec);
        let spec = match target.kind() {
            Kind::Service => return Ok(of_service(self.get(namespace, name).await?)),
            Kind::Pod => self.get::<Pod>(namespace, name).await?.spec,
            Kind::Deployment => {
                let found = self.get::<Deployment>(namespace, name).await?;
                template(found.spec.map(|spec| spec.template))
            }
            Kind::ReplicaSet => {
                let found = self.get::<ReplicaSet>(namespace, name).await?;
                template(found.spec.and_then(|spec| spec.template))
            }
            Kind::StatefulSet => {
                let found = self.get::<StatefulSet>(namespace, name).await?;
                template(found.spec.map(|spec| spec.template))
            }
            Kind::DaemonSet => {
                let found = self.get::<DaemonSet>(namespace, name).await?;
                template(found.spec.map(|spec| spec.template))
            }
            Kind::Job => {
                let found = self.get::<Job>(namespace, name).await?;
                template(found.spec.map(|spec| spec.template))
            }
            Kind::ReplicationController => {
                let found = self.get::<ReplicationController>(namespace, name).await?;
                template(found.spec.and_then(|spec| spec.template))
            }
        };
        Ok(spec.map(of_pod).unwrap_or_default())
    }

    async fn names_of<K>(&self, namespace: &str) -> Result<Vec<String>, RequestError>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        all_names(&Api::<K>::namespaced(self.client(), namespace)).await
    }

    async fn get<K>(&self, namespace: &str, name: &str) -> Result<K, RequestError>
    where
        K: kube::Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let api: Api<K> = Api::namespaced(self.client(), namespace);
        Ok(api.get(name).await?)
    }
}

async fn all_names<K>(api: &Api<K>) -> Result<Vec<String>, RequestError>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut names = Vec::new();
    // as many at once as kubectl asks for
    let mut page = ListParams::default().limit(500);
    loop {
        let list = api.list_metadata(&page).await?;
        names.extend(list.items.into_iter().filter_map(|item| item.metadata.name));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(names),
        }
    }
}

fn of_service(service: Service) -> Declared {
    let ports = service.spec.and_then(|spec| spec.ports).unwrap_or_default();
    let ports = ports
        .into_iter()
        .filter(|port| is_tcp(port.protocol.as_deref()));
    Declared {
        containers: Vec::new(),
        ports: ports
            .filter_map(|port| declared(port.port, port.name))
            .collect(),
    }
}

fn of_pod(spec: PodSpec) -> Declared {
    let init = spec.init_containers.unwrap_or_default();
    let ports = |container: &Container| container.ports.clone().unwrap_or_default();
    let all = spec.containers.iter().chain(&init);
    let tcp = all
        .clone()
        .flat_map(ports)
        .filter(|port| is_tcp(port.protocol.as_deref()));
    Declared {
        ports: tcp
            .filter_map(|port| declared(port.container_port, port.name))
            .collect(),
        containers: all.map(|container| container.name.clone()).collect(),
    }
}

fn is_tcp(protocol: Option<&str>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

fn declared(number: i32, name: Option<String>) -> Option<DeclaredPort> {
    let number = number.try_into().ok()?;
    Some(DeclaredPort { number, name })
}
