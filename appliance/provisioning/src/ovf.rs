//! OVF environment (DMTF DSP0243, DSP8027): how VMware hands a guest what was asked at its import.
//!
//! The properties are few, as people type them into an import dialog; who wants more has the answer document. What is left empty is
//! as if it had not been asked. The interface is the one that vCenter says (`ve:Adapter`), and the machine's first otherwise.

use std::fmt::Display;
use std::str::FromStr;

use roxmltree::Document;
use thiserror::Error;

use crate::answers::{Answers, Hardware, Interface, Role};
use crate::values::{HostName, Mac};

/// Namespace of the environment.
const ENVIRONMENT: &str = "http://schemas.dmtf.org/ovf/environment/1";
/// Namespace of what VMware adds.
const VMWARE: &str = "http://www.vmware.com/schema/ovfenv";
/// Name of the environment's file on a medium (transport `iso`).
pub const FILE: &str = "ovf-env.xml";
/// Name by which VMware's tools give the environment (transport `com.vmware.guestInfo`).
pub const GUEST_INFO: &str = "guestinfo.ovfEnv";

/// What is asked at an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Property {
    /// Its key.
    pub key: &'static str,
    /// What is asked.
    pub label: &'static str,
    /// What it means.
    pub description: &'static str,
    /// Whether it is hidden while it is typed.
    pub is_secret: bool,
}

const fn property(key: &'static str, label: &'static str, description: &'static str) -> Property {
    Property { key, label, description, is_secret: false }
}

const ADDRESS: &str = "address";
const GATEWAY: &str = "gateway";
const ON_LINK: &str = "on_link";
const DNS: &str = "dns";
const HOSTNAME: &str = "hostname";
const PASSWORD_HASH: &str = "password_hash";
const ROOT_PASSWORD_HASH: &str = "root_password_hash";

/// The properties, in the order in which they are asked.
pub const PROPERTIES: [Property; 7] = [
    property(
        ADDRESS,
        "Address",
        "IPv4 or IPv6 with the length of its prefix, such as 192.0.2.7/24; several with blanks between. Empty: DHCP",
    ),
    property(GATEWAY, "Gateway", "Such as 192.0.2.1; one of IPv4 and one of IPv6; only with an address"),
    property(
        ON_LINK,
        "Gateway on the link",
        "yes, where the gateway is in no network of the addresses, as providers give it with a /32. Empty: no",
    ),
    property(DNS, "Name servers", "Their addresses, with blanks between; only with an address"),
    property(HOSTNAME, "Host name", "Letters, digits and hyphens. Empty: backup-server"),
    Property {
        is_secret: true,
        ..property(
            PASSWORD_HASH,
            "Hash of the password for FTP and the monitor",
            "Of user backup, $argon2id$…, as `installer hash` prints it. Empty: the default password, with a standing warning",
        )
    },
    Property {
        is_secret: true,
        ..property(
            ROOT_PASSWORD_HASH,
            "Hash of root's password at the console",
            "As `installer hash --console` or `openssl passwd -6` print it. Empty: root is locked",
        )
    },
];

/// Why an environment cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OvfError {
    /// It is no environment.
    #[error("the OVF environment is malformed: {0}")]
    Malformed(String),
    /// A property's value is wrong.
    #[error("OVF property {key}: {cause}")]
    Property {
        /// Which.
        key: &'static str,
        /// What is wrong; never a hash.
        cause: String,
    },
}

/// The answers in an environment, if any property has a value. `first`: the machine's first interface.
///
/// # Errors
/// [`OvfError`]; one wrong value refuses all of it.
pub fn answers(environment: &str, first: Option<&Mac>) -> Result<Option<Answers>, OvfError> {
    let document = Document::parse(environment).map_err(|error| OvfError::Malformed(error.to_string()))?;
    let root = document.root_element();
    if root.tag_name().name() != "Environment" || root.tag_name().namespace() != Some(ENVIRONMENT) {
        return Err(OvfError::Malformed("its root is no Environment".into()));
    }
    let value = |key: &str| {
        let mut properties = root.descendants().filter(|node| node.has_tag_name((ENVIRONMENT, "Property")));
        let property = properties.find(|node| node.attribute((ENVIRONMENT, "key")) == Some(key))?;
        property.attribute((ENVIRONMENT, "value")).map(str::trim).filter(|value| !value.is_empty())
    };
    if PROPERTIES.iter().all(|property| value(property.key).is_none()) {
        return Ok(None);
    }
    let adapter = root.descendants().find_map(|node| {
        let is_adapter = node.has_tag_name((VMWARE, "Adapter"));
        is_adapter.then(|| node.attribute((VMWARE, "mac"))?.parse::<Mac>().ok()).flatten()
    });
    let mut answers = Answers::for_role(Role::BackupServer);
    answers.hostname = value(HOSTNAME).map(|text| parsed::<HostName>(HOSTNAME, text)).transpose()?;
    answers.password_hash = value(PASSWORD_HASH)
        .map(|text| text.to_owned().try_into().map_err(|cause: String| wrong(PASSWORD_HASH, cause)))
        .transpose()?;
    answers.root_password_hash =
        value(ROOT_PASSWORD_HASH).map(|text| parsed(ROOT_PASSWORD_HASH, text)).transpose()?;
    let addresses = all(ADDRESS, value(ADDRESS))?;
    let gateways = all(GATEWAY, value(GATEWAY))?;
    let dns = all(DNS, value(DNS))?;
    let on_link = value(ON_LINK).map(yes_or_no).transpose()?.unwrap_or_default();
    if addresses.is_empty() {
        for (key, is_given) in [(GATEWAY, !gateways.is_empty()), (ON_LINK, on_link), (DNS, !dns.is_empty())] {
            if is_given {
                return Err(wrong(key, "there is no address beside it; with DHCP it comes from there"));
            }
        }
    } else {
        let mac = adapter
            .as_ref()
            .or(first)
            .ok_or_else(|| wrong(ADDRESS, "the machine has no network interface"))?;
        let hardware = Hardware::Card(mac.clone());
        let interface = Interface { addresses, gateways, on_link, dns, ..Interface::new(hardware) };
        answers.network = vec![interface.checked().map_err(|cause| wrong(ADDRESS, cause))?];
    }
    Ok(Some(answers))
}

fn wrong(key: &'static str, cause: impl Into<String>) -> OvfError {
    OvfError::Property { key, cause: cause.into() }
}

fn parsed<T: FromStr<Err: Display>>(key: &'static str, text: &str) -> Result<T, OvfError> {
    text.parse().map_err(|error: T::Err| wrong(key, error.to_string()))
}

/// What people write for yes and no.
fn yes_or_no(text: &str) -> Result<bool, OvfError> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "true" | "1" => Ok(true),
        "no" | "false" | "0" => Ok(false),
        _ => Err(wrong(ON_LINK, format!("{text:?} is neither yes nor no"))),
    }
}

/// Values with blanks or commas between.
fn all<T: FromStr<Err: Display>>(key: &'static str, text: Option<&str>) -> Result<Vec<T>, OvfError> {
    let words = text.unwrap_or_default().split([' ', ',']).filter(|word| !word.is_empty());
    words.map(|word| parsed(key, word)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARGON: &str =
        "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHRzYWx0$4GdCtpBqB9FCbZnRSQnVaZ4fnTcQ5iKTbs1UcGKwyxs";

    /// As `vmtoolsd --cmd "info-get guestinfo.ovfEnv"` prints it on a machine that vCenter deployed.
    fn environment(properties: &[(&str, &str)], adapter: &str) -> String {
        let property = |(key, value): &(&str, &str)| {
            format!("         <Property oe:key=\"{key}\" oe:value=\"{value}\"/>\n")
        };
        let properties: String = properties.iter().map(property).collect();
        format!(
            r#"<?xml version="1.0" encoding="UTF-8"?>
<Environment
     xmlns="http://schemas.dmtf.org/ovf/environment/1"
     xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
     xmlns:oe="http://schemas.dmtf.org/ovf/environment/1"
     xmlns:ve="http://www.vmware.com/schema/ovfenv"
     oe:id=""
     ve:vCenterId="vm-1042">
   <PlatformSection>
      <Kind>VMware ESXi</Kind>
      <Version>7.0.3</Version>
      <Vendor>VMware, Inc.</Vendor>
      <Locale>en</Locale>
   </PlatformSection>
   <PropertySection>
{properties}   </PropertySection>
{adapter}</Environment>
"#
        )
    }

    const ADAPTER: &str = "   <ve:EthernetAdapterSection>\n      <ve:Adapter ve:mac=\"00:50:56:9a:12:34\" \
                           ve:network=\"VM Network\" ve:unitNumber=\"7\"/>\n   </ve:EthernetAdapterSection>\n";

    #[test]
    fn what_was_asked_becomes_answers() {
        let hash = format!("$6$salt${}", "a".repeat(86));
        let given = [
            ("address", "192.0.2.7/24, 2001:db8::7/64"),
            ("gateway", "192.0.2.1"),
            ("dns", " 192.0.2.53 2001:db8::53 "),
            ("hostname", "backup1"),
            ("password_hash", ARGON),
            ("root_password_hash", &hash),
        ];
        let answers = answers(&environment(&given, ADAPTER), None).unwrap().unwrap();
        let expected = Answers::from_yaml(&format!(
            "role: backup-server\nhostname: backup1\nnetwork:\n  - mac: 00:50:56:9a:12:34\n    \
             addresses: [192.0.2.7/24, '2001:db8::7/64']\n    gateway: 192.0.2.1\n    dns: [192.0.2.53, '2001:db8::53']\n\
             root_password_hash: {hash}\npassword_hash: {ARGON}\n"
        ));
        assert_eq!(answers, expected.unwrap());
    }

    #[test]
    fn nothing_given_is_nothing_asked_and_a_lone_host_tells_no_interface() {
        let empty = PROPERTIES.map(|property| (property.key, ""));
        assert_eq!(answers(&environment(&empty, ADAPTER), None), Ok(None));
        assert_eq!(answers(&environment(&[], ""), None), Ok(None));
        let first: Mac = "52:54:00:00:00:01".parse().unwrap();
        let found = answers(&environment(&[("address", "10.0.0.2/8")], ""), Some(&first)).unwrap().unwrap();
        assert_eq!(found.network[0].mac(), Some(&first));
        let found = answers(&environment(&[("hostname", "b")], ""), None).unwrap().unwrap();
        assert!(found.network.is_empty() && found.hostname.is_some());
    }

    #[test]
    fn a_providers_gateway_is_taken_when_it_is_said_to_be_on_the_link() {
        for yes in ["yes", "True", " 1 "] {
            let given = [("address", "203.0.113.10/32"), ("gateway", "172.31.1.1"), ("on_link", yes)];
            let found = answers(&environment(&given, ADAPTER), None).unwrap().unwrap();
            assert!(found.network[0].on_link, "{yes:?}");
        }
        let given = [("address", "10.0.0.2/8"), ("gateway", "10.0.0.1"), ("on_link", "no")];
        assert!(!answers(&environment(&given, ADAPTER), None).unwrap().unwrap().network[0].on_link);
    }

    #[test]
    fn a_wrong_value_is_named_and_hashes_are_not_shown() {
        let table = [
            (&[("address", "192.0.2.7")][..], "OVF property address: "),
            (
                &[("address", "10.0.0.2/8"), ("gateway", "11.0.0.1")],
                "OVF property address: gateway 11.0.0.1 of",
            ),
            (
                &[("address", "203.0.113.10/32"), ("gateway", "172.31.1.1")],
                "OVF property address: gateway 172.31.1.1 of 00:50:56:9a:12:34 lies in no network of its addresses; if the \
                 provider gives it so, say that it is on the link (on_link)",
            ),
            (
                &[("address", "203.0.113.10/32"), ("gateway", "172.31.1.1"), ("on_link", "sure")],
                "OVF property on_link: \"sure\" is neither yes nor no",
            ),
            (&[("on_link", "yes")], "OVF property on_link: there is no address beside it"),
            (&[("address", "10.0.0.2/8"), ("on_link", "yes")], "OVF property address: on_link of"),
            (&[("gateway", "10.0.0.1")], "OVF property gateway: there is no address beside it"),
            (&[("dns", "10.0.0.1")], "OVF property dns: there is no address beside it"),
            (&[("address", "10.0.0.2/8"), ("dns", "ns.example")], "OVF property dns: "),
            (&[("hostname", "a b")], "OVF property hostname: "),
            (&[("password_hash", "sesame")], "OVF property password_hash: "),
            (&[("root_password_hash", "sesame")], "OVF property root_password_hash: "),
        ];
        for (given, expected) in table {
            let error = answers(&environment(given, ADAPTER), None).unwrap_err().to_string();
            assert!(error.starts_with(expected) && !error.contains("sesame"), "{error}");
        }
        for text in ["", "<Environment/>", "<a", "no XML"] {
            assert!(matches!(answers(text, None), Err(OvfError::Malformed(_))), "{text}");
        }
        let error = answers(&environment(&[("address", "10.0.0.2/8")], ""), None).unwrap_err().to_string();
        assert!(error.contains("no network interface"), "{error}");
    }
}
