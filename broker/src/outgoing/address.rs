//! Where outgoing requests may go. A name can lead anywhere, so what counts is the address that is connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What an address is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// The Internet.
    Public,
    /// This host.
    Loopback,
    /// A network of somebody's own.
    Private,
    /// Nothing that is asked for anything: a link (where clouds have the credentials of their machines), a group, a test.
    Never,
}

/// What an address is of (the registries of RFC 6890).
pub(super) fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    match address.octets() {
        [127, ..] => Reach::Loopback,
        [10, ..] | [192, 168, ..] | [172, 16..=31, ..] | [100, 64..=127, ..] => Reach::Private,
        [0, ..] | [169, 254, ..] | [224..=255, ..] => Reach::Never,
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18..=19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => {
            Reach::Never
        }
        _ => Reach::Public,
    }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    if address == Ipv6Addr::LOCALHOST {
        return Reach::Loopback;
    }
    if let Some(mapped) = address.to_ipv4_mapped() {
        return reach_v4(mapped);
    }
    match address.segments() {
        // What a network without IPv4 makes of an address of IPv4 (RFC 6052). Its own ones are not behind that.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            match reach_v4(Ipv4Addr::new(a, b, c, d)) {
                Reach::Public => Reach::Public,
                _ => Reach::Never,
            }
        }
        [0xfc00..=0xfdff, ..] => Reach::Private,
        // Tunnels carry other addresses; the rest is for protocols and documentation.
        [0x2001, 0..=0x1ff | 0xdb8, ..] | [0x2002, ..] | [0x3fff, 0..=0xfff, ..] => Reach::Never,
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_apart() {
        let cases = [
            (
                Reach::Public,
                "1.1.1.1 8.8.8.8 172.15.0.1 172.32.0.1 100.63.0.1 100.128.0.1 192.0.1.1 223.255.255.255",
            ),
            (Reach::Public, "2606:4700::1111 2a00::1 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2001:200::1"),
            (Reach::Loopback, "127.0.0.1 127.255.0.9 ::1 ::ffff:127.0.0.1"),
            (Reach::Private, "10.0.0.1 172.16.0.1 172.31.255.1 192.168.1.1 100.64.0.1 fc00::1 fd00:ec2::254"),
            (Reach::Private, "::ffff:10.0.0.1"),
            (
                Reach::Never,
                "0.0.0.0 169.254.169.254 224.0.0.1 255.255.255.255 198.18.0.1 192.0.2.1 203.0.113.9",
            ),
            (
                Reach::Never,
                ":: fe80::1 ff02::1 fec0::1 2001:db8::1 2002:7f00:1::1 2001::1 3fff::1 64:ff9b::10.0.0.1",
            ),
            (Reach::Never, "::127.0.0.1 ::ffff:169.254.169.254 64:ff9b::127.0.0.1 64:ff9b:1::1 100::1"),
        ];
        for (expected, addresses) in cases {
            for address in addresses.split(' ') {
                assert_eq!(reach(address.parse().unwrap()), expected, "{address}");
            }
        }
    }
}
