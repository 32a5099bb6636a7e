// doctor, from outside: what the hypervisor says, beside what the guest has of it. Nothing where no hypervisor was asked.
//
//   dimm-not-in-guest   it is plugged, and the guest has no blocks there: not a multiple of a block, or add_memory() failed
//   dimm-offline        it is plugged, the guest has its blocks, and some are offline: paid for and of no use
//   virtio-mem-short    the device was asked for another size than it has: the driver is at it, or cannot
//   balloon-inflated    the guest has less than its boot memory
//   no-slot             no slot is left for a DIMM              maxmem-reached   nothing more can be plugged at all
//
// Source: lab facts 2, 3 and the notes on virtio-mem; spec 5.4, 7.1.

import { formatSize } from '#base/format';
import { PAGE_SIZE } from '#mm/index';
import type { Twin } from '#twin/index';
import type { Finding, HypervisorFacts, Seen } from './doctor.ts';
import { sayIds } from './target.ts';

export function hypervisorFindings(twin: Twin, seen: Seen): readonly Finding[] {
  const h = seen.hypervisor;
  if (h === undefined) return [];
  return [...dimms(twin, h), ...virtioMem(h), ...balloon(h), ...limits(twin, h)];
}

function dimms(twin: Twin, h: HypervisorFacts): Finding[] {
  const blockBytes = twin.blockPages * PAGE_SIZE;
  const out: Finding[] = [];
  for (const d of h.dimms) {
    const blocks = twin.blocks.filter((b) => d.addr < (b.id + 1) * blockBytes && b.id * blockBytes < d.addr + d.size);
    const place = `${formatSize(d.size)} at 0x${d.addr.toString(16)}, node ${d.node}`;
    if (blocks.length * blockBytes < d.size) {
      const odd = d.size % blockBytes !== 0 || d.addr % blockBytes !== 0;
      out.push({
        code: 'dimm-not-in-guest',
        severity: 'bad',
        sentence: `DIMM ${d.id} is plugged and the guest ${blocks.length === 0 ? 'has nothing' : 'lacks part'} of it`,
        evidence: [
          place,
          `${blocks.length} of ${Math.ceil(d.size / blockBytes)} blocks are there`,
          ...(odd
            ? [`it is no multiple of a block of ${formatSize(blockBytes)}: the guest's kernel refuses such a range`]
            : []),
        ],
        fix: odd
          ? [`device_del ${d.id}, and plug a multiple of ${formatSize(blockBytes)}`]
          : [
              `device_del ${d.id}, free memory for its memory map (1/64 of its size), plug it again; the guest's log says why: journalctl -k | grep -i add_memory`,
            ],
        provenance: 'measured',
      });
      continue;
    }
    const offline = blocks.filter((b) => b.state === 'offline').map((b): number => b.id);
    if (offline.length > 0) {
      const all = offline.length === blocks.length;
      out.push({
        code: 'dimm-offline',
        severity: 'warn',
        sentence: `DIMM ${d.id} is plugged and ${all ? 'offline' : 'partly offline'}: ${formatSize(offline.length * blockBytes)} that the guest does not use`,
        evidence: [place, `offline: blocks ${sayIds(offline)}`],
        fix: [
          `echo online_movable > /sys/devices/system/memory/memory${offline[0]}/state    # and the others`,
          ...(all ? [`or take it away: device_del ${d.id}`] : []),
        ],
        provenance: 'measured',
      });
    }
  }
  return out;
}

function virtioMem(h: HypervisorFacts): Finding[] {
  return h.virtioMem
    .filter((v) => v.requested !== v.size)
    .map((v): Finding => {
      const shrink = v.requested < v.size;
      return {
        code: 'virtio-mem-short',
        severity: 'warn',
        sentence: `virtio-mem device ${v.id} was asked for ${formatSize(v.requested)} and has ${formatSize(v.size)} plugged`,
        evidence: [`at 0x${v.addr.toString(16)}, at most ${formatSize(v.maxSize)}`],
        fix: shrink
          ? [
              'the driver tries again by itself (after 50 s, then ever more rarely): pages in the way move when memory is free elsewhere',
              `or accept it: qom-set ${v.id} requested-size ${v.size}`,
            ]
          : [
              'the guest needs its driver: modprobe virtio_mem',
              'journalctl -k | grep -i virtio_mem    # why it refuses',
            ],
        provenance: 'measured',
      };
    });
}

function balloon(h: HypervisorFacts): Finding[] {
  if (h.balloonBytes === undefined || h.balloonBytes >= h.baseBytes) return [];
  const taken = h.baseBytes - h.balloonBytes;
  return [
    {
      code: 'balloon-inflated',
      severity: 'note',
      sentence: `the balloon holds ${formatSize(taken)} of the guest's boot memory, in single pages all over it`,
      evidence: [`${formatSize(h.balloonBytes)} of ${formatSize(h.baseBytes)} left`],
      fix: [
        `balloon ${h.baseBytes}    # QMP, argument "value"; before memory is taken offline or contiguous pieces are wanted`,
      ],
      provenance: 'measured',
    },
  ];
}

function limits(twin: Twin, h: HypervisorFacts): Finding[] {
  const blockBytes = twin.blockPages * PAGE_SIZE;
  if (h.maxBytes !== undefined && h.maxBytes - h.baseBytes - h.pluggedBytes < blockBytes) {
    return [
      {
        code: 'maxmem-reached',
        severity: 'note',
        sentence: `${formatSize(h.baseBytes + h.pluggedBytes)} are plugged and maxmem is ${formatSize(h.maxBytes)}: nothing more can be added`,
        evidence: [`base ${formatSize(h.baseBytes)}, plugged ${formatSize(h.pluggedBytes)}`],
        fix: ['start the machine with a larger maxmem='],
        provenance: 'measured',
      },
    ];
  }
  if (h.slots !== undefined && h.slots.total > 0 && h.slots.used.length >= h.slots.total) {
    return [
      {
        code: 'no-slot',
        severity: 'note',
        sentence: `all ${h.slots.total} DIMM slots are taken: no DIMM more can be added`,
        evidence: [`slots ${sayIds(h.slots.used)}`],
        fix: [
          'take an empty or unneeded DIMM away first',
          'start the machine with more slots=, or with a virtio-mem device',
        ],
        provenance: 'measured',
      },
    ];
  }
  return [];
}
