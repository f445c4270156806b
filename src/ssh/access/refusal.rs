//! Why somebody was not let in.

use thiserror::Error;

/// A reason, for the audit log: whoever was refused is not told which.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum Refusal {
    /// Nobody has listed it.
    #[error("the key is not listed")]
    KeyUnknown,
    /// The kind of key, or its size.
    #[error("keys of this kind or size are not taken")]
    KeyAlgorithm,
    /// The program that knows keys did not answer as it should.
    #[error("the keys command {0}")]
    Command(String),
    /// From an address that is not among those it is good for.
    #[error("it is not good for where it comes from")]
    Source,
    /// It was good until some time.
    #[error("it has expired")]
    Expired,
    /// It is good from some time.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// It, its authority, its serial number or its id is revoked.
    #[error("it is revoked")]
    Revoked,
    /// A certificate for hosts.
    #[error("the certificate is not a user's")]
    NotAUsers,
    /// Signed by somebody else.
    #[error("the certificate is of no authority that is known")]
    AuthorityUnknown,
    /// SHA-1, or something that nobody has heard of.
    #[error("the certificate is signed with an algorithm that is not taken")]
    AuthorityAlgorithm,
    /// Changed after it was signed.
    #[error("the certificate's signature is wrong")]
    Signature,
    /// It lasts longer than the configuration allows.
    #[error("the certificate lasts too long")]
    Lifetime,
    /// It would be good for everybody.
    #[error("the certificate has no principals")]
    NoPrincipals,
    /// One that could be taken for several, or for one of Kubernetes' own.
    #[error("the certificate has a principal that nobody can have")]
    Principal,
    /// None of its principals is somebody's name.
    #[error("none of the certificate's principals is a user")]
    NoUser,
    /// Which one would it be?
    #[error("several of the certificate's principals are users")]
    SeveralUsers,
    /// One that has to be heeded, and can't be.
    #[error("the certificate has a critical option that is unknown or wrong: {0}")]
    CriticalOption(String),
    /// The certificate's groups make no sense.
    #[error("the certificate names groups that nobody can have")]
    Groups,
    /// With the prefix it is a name that nobody can have.
    #[error("the user's name is one that nobody can have")]
    Identity,
}

impl Refusal {
    /// A word that stays the same, for logs and metrics: `key-unknown`.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::KeyUnknown => "key-unknown",
            Self::KeyAlgorithm => "key-algorithm",
            Self::Command(_) => "keys-command",
            Self::Source => "source",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::Revoked => "revoked",
            Self::NotAUsers => "certificate-type",
            Self::AuthorityUnknown => "authority-unknown",
            Self::AuthorityAlgorithm => "authority-algorithm",
            Self::Signature => "certificate-signature",
            Self::Lifetime => "certificate-lifetime",
            Self::NoPrincipals => "no-principals",
            Self::Principal => "principal",
            Self::NoUser => "no-user",
            Self::SeveralUsers => "several-users",
            Self::CriticalOption(_) => "critical-option",
            Self::Groups => "groups",
            Self::Identity => "identity",
        }
    }
}
