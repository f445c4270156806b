//! SPDY/3.1 as Kubernetes speaks it, sans-IO.
