//! What sort of address it is, by the IANA special-purpose address registries
//! (<https://www.iana.org/assignments/iana-ipv4-special-registry>,
//! <https://www.iana.org/assignments/iana-ipv6-special-registry>, October 2025).

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Who can be reached at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Anybody's machine.
    Public,
    /// A machine of a private network (RFC 1918, RFC 4193).
    Private,
    /// This machine.
    Loopback,
    /// A machine behind a carrier's address translation (RFC 6598).
    Shared,
    /// A machine on the same link.
    LinkLocal,
    /// What a cloud tells its machines about themselves, credentials among it.
    Metadata,
    /// Many machines.
    Multicast,
    /// Nobody's: reserved, unspecified, for documentation, or a relic of the transition to IPv6.
    Reserved,
}

/// A prefix under which a network translates IPv6 to IPv4 (NAT64, RFC 6052 §2.2), beside the well-known one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nat64Prefix(Ipv6Net);

/// A text that is no such prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no prefix of NAT64; use an IPv6 network of 32, 40, 48, 56, 64 or 96 bits, such as 2001:db8:64::/96"
)]
pub struct Nat64PrefixError(String);

/// An address that is written down in this file.
const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, d: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0), prefix)
}

/// The first that holds an address tells; what none holds is public.
const V4: [(Ipv4Net, Reach); 23] = [
    (v4(10, 0, 0, 0, 8), Reach::Private),
    (v4(172, 16, 0, 0, 12), Reach::Private),
    (v4(192, 168, 0, 0, 16), Reach::Private),
    (v4(127, 0, 0, 0, 8), Reach::Loopback),
    // Nearly every cloud; Amazon's resolver, and the credentials of its containers.
    (v4(169, 254, 169, 254, 32), Reach::Metadata),
    (v4(169, 254, 169, 253, 32), Reach::Metadata),
    (v4(169, 254, 170, 2, 32), Reach::Metadata),
    (v4(169, 254, 170, 23, 32), Reach::Metadata),
    // Alibaba Cloud and Oracle Cloud.
    (v4(100, 100, 100, 200, 32), Reach::Metadata),
    (v4(192, 0, 0, 192, 32), Reach::Metadata),
    // Azure, in the middle of public addresses.
    (v4(168, 63, 129, 16, 32), Reach::Metadata),
    (v4(100, 64, 0, 0, 10), Reach::Shared),
    (v4(169, 254, 0, 0, 16), Reach::LinkLocal),
    (v4(224, 0, 0, 0, 4), Reach::Multicast),
    (v4(0, 0, 0, 0, 8), Reach::Reserved),
    (v4(192, 0, 0, 0, 24), Reach::Reserved),
    (v4(192, 0, 2, 0, 24), Reach::Reserved),
    (v4(198, 51, 100, 0, 24), Reach::Reserved),
    (v4(203, 0, 113, 0, 24), Reach::Reserved),
    (v4(192, 88, 99, 0, 24), Reach::Reserved),
    (v4(192, 52, 193, 0, 24), Reach::Reserved),
    (v4(198, 18, 0, 0, 15), Reach::Reserved),
    (v4(240, 0, 0, 0, 4), Reach::Reserved),
];

/// The first that holds an address tells; what none holds is reserved.
const V6: [(Ipv6Net, Reach); 15] = [
    // Amazon (metadata, resolver, credentials of containers), Google, Oracle and Scaleway, in private networks.
    (v6(0xfd00, 0xec2, 0, 0, 32), Reach::Metadata),
    (v6(0xfd20, 0xce, 0, 0, 64), Reach::Metadata),
    (v6(0xfd00, 0xc1, 0, 0, 32), Reach::Metadata),
    (v6(0xfd00, 0x42, 0, 0, 64), Reach::Metadata),
    (v6(0xfc00, 0, 0, 0, 7), Reach::Private),
    (v6(0xfe80, 0, 0, 0, 10), Reach::LinkLocal),
    (v6(0xff00, 0, 0, 0, 8), Reach::Multicast),
    // Site-local, deprecated (RFC 3879), and still routed here and there.
    (v6(0xfec0, 0, 0, 0, 10), Reach::Private),
    // Protocol assignments, among them Teredo, benchmarking and ORCHID.
    (v6(0x2001, 0, 0, 0, 23), Reach::Reserved),
    (v6(0x2001, 0xdb8, 0, 0, 32), Reach::Reserved),
    (v6(0x2002, 0, 0, 0, 16), Reach::Reserved),
    (v6(0x3fff, 0, 0, 0, 20), Reach::Reserved),
    // The test network of old (RFC 3701).
    (v6(0x3ffe, 0, 0, 0, 16), Reach::Reserved),
    (v6(0x5f00, 0, 0, 0, 16), Reach::Reserved),
    (v6(0x2000, 0, 0, 0, 3), Reach::Public),
];

/// Translation to IPv4 (RFC 6052): where a network has IPv6 only, resolvers give public hosts such addresses.
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 0, 0, 96);

// === impl Reach ===

impl Reach {
    /// Who can be reached at an address. An IPv6 address that stands for an IPv4 one reaches whom that one does; those of
    /// the deprecated transitions (IPv4-compatible, 6to4, Teredo) reach nobody. A network's own prefix of NAT64
    /// cannot be told from any other: see [`Self::through`].
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => reach_v4(address),
            IpAddr::V6(address) => reach_v6(address),
        }
    }

    /// The same in a network that translates addresses under `prefixes`.
    pub fn through(prefixes: &[Nat64Prefix], address: IpAddr) -> Self {
        let IpAddr::V6(v6) = address else { return Self::of(address) };
        let embedded = prefixes.iter().find_map(|prefix| prefix.embedded(v6));
        embedded.map_or_else(|| Self::of(address), reach_v4)
    }

    /// Whether machines of an operator's own are at such addresses: an operator who allows a name means these too, and
    /// none of the others that are not public.
    pub const fn is_internal(self) -> bool {
        matches!(self, Self::Private | Self::Loopback | Self::Shared)
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "a public address",
            Self::Private => "an address of a private network",
            Self::Loopback => "an address of this machine",
            Self::Shared => "an address of a provider's inner network",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "the address of a cloud's metadata service",
            Self::Multicast => "a multicast address",
            Self::Reserved => "a reserved address",
        })
    }
}

// === impl Nat64Prefix ===

impl Nat64Prefix {
    /// The IPv4 address that an address under this prefix stands for.
    fn embedded(self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        if !self.0.contains(&address) {
            return None;
        }
        let octets = address.octets();
        // It follows the prefix, around an octet that is always zero.
        let after = usize::from(self.0.prefix_len() / 8);
        let mut places = (after..16).filter(|place| *place != 8);
        let mut next = || places.next().map(|place| octets[place]);
        Some(Ipv4Addr::new(next()?, next()?, next()?, next()?))
    }
}

impl FromStr for Nat64Prefix {
    type Err = Nat64PrefixError;

    fn from_str(text: &str) -> Result<Self, Nat64PrefixError> {
        let network = text.parse::<Ipv6Net>().ok();
        let network =
            network.filter(|network| [32, 40, 48, 56, 64, 96].contains(&network.prefix_len()));
        let shown = || Nat64PrefixError(text.chars().take(64).collect());
        network.map(|network| Self(network.trunc())).ok_or_else(shown)
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    let found = V4.iter().find(|(network, _)| network.contains(&address));
    found.map_or(Reach::Public, |(_, reach)| *reach)
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    if address == Ipv6Addr::LOCALHOST {
        return Reach::Loopback;
    }
    if let Some(mapped) = address.to_ipv4_mapped() {
        return reach_v4(mapped);
    }
    let [.., a, b, c, d] = address.octets();
    let embedded = Ipv4Addr::new(a, b, c, d);
    if NAT64.contains(&address) {
        return reach_v4(embedded);
    }
    let found = V6.iter().find(|(network, _)| network.contains(&address));
    let reach = found.map_or(Reach::Reserved, |(_, reach)| *reach);
    // ISATAP (RFC 5214) carries an IPv4 address behind a public prefix.
    let is_isatap = matches!(address.segments(), [_, _, _, _, 0 | 0x200, 0x5efe, ..]);
    if reach == Reach::Public && is_isatap { reach_v4(embedded) } else { reach }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Reach {
        Reach::of(text.parse().unwrap())
    }

    #[test]
    fn every_special_range_is_known_to_its_edges() {
        use Reach::{LinkLocal, Loopback, Metadata, Multicast, Private, Public, Reserved, Shared};
        let table = [
            ("0.0.0.0", Reserved),
            ("0.255.255.255", Reserved),
            ("1.0.0.0", Public),
            ("9.255.255.255", Public),
            ("10.0.0.0", Private),
            ("10.255.255.255", Private),
            ("11.0.0.0", Public),
            ("100.63.255.255", Public),
            ("100.64.0.0", Shared),
            ("100.100.100.200", Metadata),
            ("100.127.255.255", Shared),
            ("100.128.0.0", Public),
            ("126.255.255.255", Public),
            ("127.0.0.1", Loopback),
            ("127.255.255.255", Loopback),
            ("128.0.0.0", Public),
            ("168.63.129.16", Metadata),
            ("169.253.255.255", Public),
            ("169.254.0.0", LinkLocal),
            ("169.254.169.252", LinkLocal),
            ("169.254.169.253", Metadata),
            ("169.254.169.254", Metadata),
            ("169.254.169.255", LinkLocal),
            ("169.254.170.2", Metadata),
            ("169.254.170.23", Metadata),
            ("169.255.0.0", Public),
            ("172.15.255.255", Public),
            ("172.16.0.0", Private),
            ("172.31.255.255", Private),
            ("172.32.0.0", Public),
            ("192.0.0.0", Reserved),
            ("192.0.0.192", Metadata),
            ("192.0.0.255", Reserved),
            ("192.0.1.0", Public),
            ("192.0.2.1", Reserved),
            ("192.52.193.1", Reserved),
            ("192.88.99.1", Reserved),
            ("192.167.255.255", Public),
            ("192.168.0.0", Private),
            ("192.168.255.255", Private),
            ("192.169.0.0", Public),
            ("198.17.255.255", Public),
            ("198.18.0.0", Reserved),
            ("198.19.255.255", Reserved),
            ("198.20.0.0", Public),
            ("198.51.100.7", Reserved),
            ("203.0.113.7", Reserved),
            ("223.255.255.255", Public),
            ("224.0.0.1", Multicast),
            ("239.255.255.255", Multicast),
            ("240.0.0.0", Reserved),
            ("255.255.255.255", Reserved),
            ("::", Reserved),
            ("::1", Loopback),
            ("::2", Reserved),
            ("::ffff:127.0.0.1", Loopback),
            ("::ffff:8.8.8.8", Public),
            ("::8.8.8.8", Reserved),
            ("::127.0.0.1", Reserved),
            ("64:ff9b::8.8.8.8", Public),
            ("64:ff9b::10.0.0.1", Private),
            ("64:ff9b::169.254.169.254", Metadata),
            ("64:ff9b:1::8.8.8.8", Reserved),
            ("100::1", Reserved),
            ("100:0:0:1::1", Reserved),
            ("1fff::1", Reserved),
            ("2000::1", Public),
            ("2001::1", Reserved),
            ("2001:1::1", Reserved),
            ("2001:2::1", Reserved),
            ("2001:10::1", Reserved),
            ("2001:20::1", Reserved),
            ("2001:1ff:ffff::1", Reserved),
            ("2001:200::1", Public),
            ("2001:db8::1", Reserved),
            ("2001:4860:4860::8888", Public),
            ("2002:7f00:1::", Reserved),
            ("2002:808:808::1", Reserved),
            ("2606:4700::1111", Public),
            ("2606:4700::5efe:10.0.0.1", Private),
            ("3ffe::1", Reserved),
            ("3fff:fff::1", Reserved),
            ("3fff:1000::1", Public),
            ("4000::1", Reserved),
            ("5f00::1", Reserved),
            ("fc00::1", Private),
            ("fd00:42::42", Metadata),
            ("fd00:c1::a9fe:a9fe", Metadata),
            ("fd00:ec2::23", Metadata),
            ("fd00:ec2::254", Metadata),
            ("fd20:ce::254", Metadata),
            ("fd20:ce:0:1::1", Private),
            ("fdff::1", Private),
            ("fe80::1", LinkLocal),
            ("febf::1", LinkLocal),
            ("fec0::1", Private),
            ("ff02::1", Multicast),
        ];
        for (text, expected) in table {
            assert_eq!(of(text), expected, "{text}");
        }
    }

    #[test]
    fn an_address_under_a_networks_own_nat64_prefix_reaches_whom_it_stands_for() {
        // The examples of RFC 6052 §2.4, for a private address.
        let table = [
            ("2001:db8::/32", "2001:db8:a00:1::"),
            ("2001:db8:100::/40", "2001:db8:10a:0:1::"),
            ("2001:db8:122::/48", "2001:db8:122:a00:0:100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:30a:0:1::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:a:0:100::"),
            ("2a00:db8:122:344::/96", "2a00:db8:122:344::10.0.0.1"),
        ];
        for (prefix, address) in table {
            let prefix: Nat64Prefix = prefix.parse().unwrap();
            let IpAddr::V6(v6) = address.parse().unwrap() else { unreachable!() };
            assert_eq!(prefix.embedded(v6), Some(Ipv4Addr::new(10, 0, 0, 1)), "{address}");
            assert_eq!(Reach::through(&[prefix], v6.into()), Reach::Private, "{address}");
            assert_eq!(Reach::through(&[prefix], "2a00::1".parse().unwrap()), Reach::Public);
            assert_eq!(Reach::through(&[prefix], "10.0.0.1".parse().unwrap()), Reach::Private);
        }
        for text in ["2001:db8::/33", "10.0.0.0/8", "2001:db8::", "x"] {
            assert!(text.parse::<Nat64Prefix>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_embedding_makes_an_address_public_that_is_not(address: u32) {
            let v4 = Ipv4Addr::from_bits(address);
            let [high, low] = [(address >> 16) as u16, address as u16];
            let forms = [
                v4.to_ipv6_mapped(),
                v4.to_ipv6_compatible(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, !high, !low),
                Ipv6Addr::new(0x2a00, 1, 2, 3, 0, 0x5efe, high, low),
                Ipv6Addr::new(0x2a00, 1, 2, 3, 0x200, 0x5efe, high, low),
            ];
            if reach_v4(v4) != Reach::Public {
                for form in forms {
                    prop_assert_ne!(reach_v6(form), Reach::Public, "{}", form);
                }
            }
        }

        #[test]
        fn the_standard_library_agrees_as_far_as_it_knows(address: u32, v6: u128) {
            let (v4, v6) = (Ipv4Addr::from_bits(address), Ipv6Addr::from_bits(v6));
            let special = v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_multicast()
                || v4.is_broadcast() || v4.is_documentation() || v4.is_unspecified();
            prop_assert!(!special || reach_v4(v4) != Reach::Public);
            let special = v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_multicast();
            prop_assert!(!special || reach_v6(v6) != Reach::Public);
        }
    }
}
