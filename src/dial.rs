//! From a pod to a tunnel.
