// doctor: what a person should know about this machine's memory before something else tells them, with the fix for each.
//
//   twin + verdicts ──> blocks     one-way doors, stuck blocks, poisoned frames           doctor-blocks.ts
//   twin + policies ──> policy     kernel settings and udev rules that contradict         doctor-policy.ts
//   zones, free     ──> room       contiguous pieces, watermarks, ratio, the next DIMM    doctor-room.ts
//   hypervisor      ──> outside    slots, maxmem, plugged and not there, balloon          doctor-hypervisor.ts
//        └──> findings, the worst first: severity, one sentence, evidence, fix
//
//   bad    it hurts now, or the very next step fails           warn   it will hurt, or cannot be taken back later
//   note   worth knowing; nothing to do about it today
//
// Pure: the same machine gives the same report. No threshold is dimmer's own: where a number decides, it is one that the kernel
// decides by (watermarks, compaction_proactiveness, auto_movable_ratio) or one that was asked for (`need`).
//
// Users: spec users.md A, rows 7, 13, 18, 24, 29 to 32, 35.

import { PAGE_SIZE } from '#mm/index';
import type { BlockVerdict, Figure, Provenance, Twin } from '#twin/index';
import { blockFindings } from './doctor-blocks.ts';
import { hypervisorFindings } from './doctor-hypervisor.ts';
import { policyFindings } from './doctor-policy.ts';
import { type NodeRoom, nodeRooms, roomFindings, type ZoneRoom, zoneRooms } from './doctor-room.ts';
import { type AddedRange, addedRanges } from './hot-added.ts';
import { type SourceInfo, sourceInfo } from './source-info.ts';

export type Severity = 'bad' | 'warn' | 'note';
export const SEVERITIES: readonly Severity[] = ['bad', 'warn', 'note'];

/** Closed: a program may switch over it. */
export type FindingCode =
  | 'need-unmet'
  | 'going-offline'
  | 'poisoned'
  | 'poison-remembered'
  | 'one-way-door'
  | 'door-still-open'
  | 'next-add-one-way'
  | 'udev-conflict'
  | 'udev-rule'
  | 'policy-idle'
  | 'policy-always-kernel'
  | 'kernel-zones-starved'
  | 'ratio-exceeded'
  | 'below-watermarks'
  | 'no-contiguous'
  | 'fragmented'
  | 'no-room-for-memmap'
  | 'memmap-on-memory-idle'
  | 'huge-pages-idle'
  | 'no-slot'
  | 'maxmem-reached'
  | 'dimm-not-in-guest'
  | 'dimm-offline'
  | 'virtio-mem-short'
  | 'balloon-inflated'
  | 'pages-not-seen';

export type Finding = {
  readonly code: FindingCode;
  readonly severity: Severity;
  /** One sentence, without its full stop. */
  readonly sentence: string;
  /** What it rests on, a line each: figures, places, the kernel's own words. */
  readonly evidence: readonly string[];
  /** A command or a setting; several lines are alternatives or steps, in order. Empty: nothing helps, or nothing is needed. */
  readonly fix: readonly string[];
  readonly provenance: Provenance;
};

/**
 * What doctor wants to know of a machine NOW; an Observation of the plan layer has it all. Bytes, but for nrFree (chunks by
 * order, 0 to 10).
 */
export type Seen = {
  readonly free: readonly { readonly node: number; readonly zone: string; readonly nrFree: readonly number[] }[];
  readonly hugePages: readonly {
    readonly node: number;
    readonly bytes: number;
    readonly total: number;
    readonly free: number;
  }[];
  readonly hypervisor: HypervisorFacts | undefined;
};

export type HypervisorFacts = {
  readonly baseBytes: number;
  readonly pluggedBytes: number;
  readonly maxBytes?: number;
  readonly slots?: { readonly total: number; readonly used: readonly number[] };
  readonly dimms: readonly {
    readonly id: string;
    readonly addr: number;
    readonly size: number;
    readonly node: number;
  }[];
  readonly virtioMem: readonly {
    readonly id: string;
    readonly addr: number;
    readonly requested: number;
    readonly size: number;
    readonly maxSize: number;
  }[];
  readonly balloonBytes?: number;
};

/** So many chunks of 2^order frames. */
export type Need = { readonly chunks: number; readonly order: number };

export type DoctorReport = {
  readonly source: SourceInfo;
  /** The worst first; within a severity in the order of the table above. */
  readonly findings: readonly Finding[];
  readonly counts: Readonly<Record<Severity, number>>;
  /** Per node: how much is free in pieces of order 9 and 10, and how far the rest is in pieces. */
  readonly nodes: readonly NodeRoom[];
  readonly zones: readonly ZoneRoom[];
  /** Ranges that came after boot, as far as that can be told. */
  readonly added: readonly AddedRange[];
  /** Largest DIMM that could be added now: its memory map finds room, and the hypervisor has as much left. Bytes, whole blocks. */
  readonly largestDimmBytes: Figure;
  readonly need: (Need & { readonly usable: number; readonly met: boolean }) | undefined;
};

export type DoctorExtra = {
  /** Of all blocks, as judgeBlocks gives them. */
  readonly verdicts: readonly BlockVerdict[];
  readonly need?: Need;
};

/** Cost O(blocks + zones + runs of page flags); the verdicts are the dear part, and the caller's. */
export function doctor(twin: Twin, seen: Seen, extra: DoctorExtra): DoctorReport {
  const added = addedRanges(twin, seen.hypervisor);
  const zones = zoneRooms(twin, seen);
  const nodes = nodeRooms(zones);
  const room = roomFindings(twin, { seen, zones, nodes, added, need: extra.need });
  const found = [
    ...room.findings,
    ...blockFindings(twin, added, extra.verdicts),
    ...policyFindings(twin, added, seen),
    ...hypervisorFindings(twin, seen),
    ...(twin.level === 'counters' ? [NOT_SEEN] : []),
  ];
  const findings = SEVERITIES.flatMap((s) => found.filter((f) => f.severity === s));
  const count = (s: Severity): number => findings.filter((f) => f.severity === s).length;
  return {
    source: sourceInfo(twin),
    findings,
    counts: { bad: count('bad'), warn: count('warn'), note: count('note') },
    nodes,
    zones,
    added,
    largestDimmBytes: room.largestDimmBytes,
    need: room.need,
  };
}

const NOT_SEEN: Finding = {
  code: 'pages-not-seen',
  severity: 'note',
  sentence: 'the pages themselves were not seen: poisoned frames, and what keeps a block, are not known',
  evidence: ['/proc/kpageflags could not be read'],
  fix: ['sudo dimmer doctor'],
  provenance: 'measured',
};

/** Memory of `pages` frames, in bytes. */
export const bytesOf = (pages: number): number => pages * PAGE_SIZE;
