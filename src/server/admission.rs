//! Who may come in: so many at a time, and so many from one address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
};

use super::{Limits, Stats, peer::Peer, session::Transport};

/// Connections that are being told why they can't come in. Where there are more, in a flood, they
/// are just closed.
const PARTING_CLIENTS: usize = 64;

/// Bits of an IPv6 address that belong to the network. The others are its owner's to choose.
const NETWORK_BITS: u32 = 64;

/// A connection on its way in.
pub(super) struct Newcomer {
    pub(super) transport: Box<dyn Transport>,
    pub(super) peer: Option<Arc<Peer>>,
    pub(super) address: Option<IpAddr>,
}

#[derive(Default)]
pub(super) struct Admission {
    clients: usize,
    /// Only where they are limited.
    by_address: HashMap<IpAddr, usize>,
    parting: usize,
}

/// Why a connection can't come in.
#[derive(Clone, Copy, Debug)]
pub(super) enum Crowded {
    Clients,
    Address,
}

impl Crowded {
    pub(super) fn count(self, stats: &mut Stats) {
        stats.refused += 1;
        *match self {
            Crowded::Clients => &mut stats.full_clients,
            Crowded::Address => &mut stats.full_addresses,
        } += 1;
    }

    /// For a person.
    pub(super) fn message(self) -> &'static str {
        match self {
            Crowded::Clients => "the server has as many clients as it may",
            Crowded::Address => "this address has as many connections as it may",
        }
    }
}

impl Admission {
    /// Lets a client in, and gives what is to be said when it [leaves](Self::leave).
    pub(super) fn admit(
        &mut self,
        address: Option<IpAddr>,
        limits: &Limits,
    ) -> Result<Option<IpAddr>, Crowded> {
        if self.clients >= limits.max_clients {
            return Err(Crowded::Clients);
        }
        let address = address.filter(|_| limits.counts_addresses()).map(network);
        if let Some(address) = address {
            let here = self.by_address.get(&address).copied().unwrap_or_default();
            if here >= limits.max_clients_per_address {
                return Err(Crowded::Address);
            }
            self.by_address.insert(address, here + 1);
        }
        self.clients += 1;
        Ok(address)
    }

    pub(super) fn leave(&mut self, address: Option<IpAddr>) {
        self.clients -= 1;
        if let Some(address) = address {
            if let Some(here) = self.by_address.get_mut(&address) {
                *here -= 1;
                if *here == 0 {
                    self.by_address.remove(&address);
                }
            }
        }
    }

    /// Whether one more may be told why it can't come in. That ends with
    /// [`end_parting`](Self::end_parting).
    pub(super) fn begin_parting(&mut self) -> bool {
        let may = self.parting < PARTING_CLIENTS;
        self.parting += usize::from(may);
        may
    }

    pub(super) fn end_parting(&mut self) {
        self.parting -= 1;
    }
}

/// What of an address tells one owner from another.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mask = u128::MAX << (u128::BITS - NETWORK_BITS);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
        address => address,
    }
}
