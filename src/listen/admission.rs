//! How many connections may be there: at a time, and from one address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
};

use crate::{Stats, shared::limits::Limits};

/// Connections that are being rejected, with the reason. Beyond these, in a flood, connections are
/// just closed.
const MAX_REJECTING: usize = 64;

/// Bits of an IPv6 address that belong to the network. The others are its owner's to choose.
const SUBNET_BITS: u32 = 64;

#[derive(Default)]
pub(crate) struct ConnectionLimiter {
    clients: usize,
    /// Clients of each address. Empty unless `max_clients_per_address` is set.
    by_address: HashMap<IpAddr, usize>,
    rejecting: usize,
}

/// Why a connection is rejected.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LimitReached {
    MaxClients,
    MaxPerAddress,
}

impl LimitReached {
    pub(crate) fn count(self, stats: &mut Stats) {
        stats.refused += 1;
        *match self {
            LimitReached::MaxClients => &mut stats.full_clients,
            LimitReached::MaxPerAddress => &mut stats.full_addresses,
        } += 1;
    }

    /// For a person.
    pub(crate) fn message(self) -> &'static str {
        match self {
            LimitReached::MaxClients => "the server has as many clients as it may",
            LimitReached::MaxPerAddress => "this address has as many connections as it may",
        }
    }
}

impl ConnectionLimiter {
    /// Admits a client. Gives what to pass to [`release`](Self::release) when it leaves.
    pub(crate) fn admit(
        &mut self,
        address: Option<IpAddr>,
        limits: &Limits,
    ) -> Result<Option<IpAddr>, LimitReached> {
        if self.clients >= limits.max_clients {
            return Err(LimitReached::MaxClients);
        }
        let address = address.filter(|_| limits.limits_per_address()).map(subnet);
        if let Some(address) = address {
            let count = self.by_address.get(&address).copied().unwrap_or_default();
            if count >= limits.max_clients_per_address {
                return Err(LimitReached::MaxPerAddress);
            }
            self.by_address.insert(address, count + 1);
        }
        self.clients += 1;
        Ok(address)
    }

    pub(crate) fn release(&mut self, address: Option<IpAddr>) {
        self.clients -= 1;
        if let Some(address) = address
            && let Some(count) = self.by_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }

    /// Whether one more may be rejected with the reason. That ends with
    /// [`finish_rejecting`](Self::finish_rejecting).
    pub(crate) fn start_rejecting(&mut self) -> bool {
        let may = self.rejecting < MAX_REJECTING;
        self.rejecting += usize::from(may);
        may
    }

    pub(crate) fn finish_rejecting(&mut self) {
        self.rejecting -= 1;
    }
}

/// The part of an address that differs between owners.
fn subnet(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mask = u128::MAX << (u128::BITS - SUBNET_BITS);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
        address => address,
    }
}
