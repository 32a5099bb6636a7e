// SRAT: the firmware's table of which CPUs and which memory lie together, and which memory may be taken out.
//
//   offset   header                                   offset   memory affinity, type 1, 40 bytes
//   0    4   "SRAT"                                   0    1   type          1    1   length
//   4    4   length of the whole table                2    4   proximity domain
//   8    1   revision                                 6    2   reserved
//   9    1   checksum: all bytes add up to 0          8    8   base address
//   10   6   OEM id                                   16   8   length in bytes
//   16   8   OEM table id                             24   4   reserved
//   24   4   OEM revision                             28   4   flags: 1 enabled, 2 hot-pluggable, 4 non-volatile
//   28   4   creator id    32   4   creator revision  32   8   reserved
//   36   4   1             40   8   reserved
//   48       entries, one after another: type, length, ...
//
//   CPU, type 0, 16 bytes    2 domain bits 0-7, 3 APIC id, 4-7 flags, 8 SAPIC EID, 9-11 domain bits 8-31, 12-15 clock
//   CPU, type 2, 24 bytes    4-7 domain, 8-11 x2APIC id, 12-15 flags, 16-19 clock
//   others                   kept as bytes (generic initiators, ARM's GICC): their length says where the next one is
//
// All numbers are little-endian. Reserved fields are zero by the standard, and are written as zero: a table that has
// something there prints back without it. Refused: what is not an SRAT, does not end where it says, has a wrong sum, or an
// entry that is too short for its type or runs over the end. Addresses beyond 2^53 are refused, not rounded.
//
// Follows ACPI 6.5, 5.2.16; Linux v6.12 drivers/acpi/numa/srat.c, arch/x86/mm/srat.c for what is believed (spec 1.12).

import type { Result } from '#base/result';
import { ok } from '#base/result';
import type { KernfsProblem } from './source.ts';
import { problem } from './text.ts';

export type SratCpu = {
  readonly kind: 'cpu';
  /** 'apic': type 0, a byte of an id; 'x2apic': type 2, 32 bits. */
  readonly id: 'apic' | 'x2apic';
  readonly proximity: number;
  readonly apicId: number;
  readonly enabled: boolean;
  readonly clockDomain: number;
  /** Type 0 only; 0 on x86. */
  readonly sapicEid: number;
};

export type SratMemory = {
  readonly kind: 'memory';
  readonly proximity: number;
  /** Bytes. */
  readonly base: number;
  readonly length: number;
  readonly enabled: boolean;
  readonly hotpluggable: boolean;
  readonly nonVolatile: boolean;
};

/** An entry of a type that is not read: the whole of it, type and length included. */
export type SratOther = { readonly kind: 'other'; readonly bytes: Uint8Array };
export type SratEntry = SratCpu | SratMemory | SratOther;

export type Srat = {
  readonly revision: number;
  readonly oemId: string;
  readonly oemTableId: string;
  readonly oemRevision: number;
  readonly creatorId: string;
  readonly creatorRevision: number;
  readonly entries: readonly SratEntry[];
};

const HEADER = 48;
const TYPE_CPU = 0;
const TYPE_MEMORY = 1;
const TYPE_X2APIC = 2;
const CPU_LENGTH = 16;
const MEMORY_LENGTH = 40;
const X2APIC_LENGTH = 24;
const ENABLED = 1;
const HOT_PLUGGABLE = 2;
const NON_VOLATILE = 4;

/** Sum of all bytes, modulo 256: 0 in a table that arrived whole. */
const sumOf = (bytes: Uint8Array): number => bytes.reduce((n, b) => (n + b) & 0xff, 0);

/** Four or more characters of an id, without what follows the first NUL or at the end are blanks. */
const textAt = (bytes: Uint8Array, at: number, length: number): string =>
  String.fromCharCode(...bytes.subarray(at, at + length)).replace(/\0+$/, '');

/**
 * Reads a raw table, as /sys/firmware/acpi/tables/SRAT gives it.
 *
 * Refusals (see above) name the byte. Bytes after the table's own length are not looked at. Cost O(bytes).
 */
export function parseSrat(bytes: Uint8Array, file = 'SRAT'): Result<Srat, KernfsProblem> {
  if (bytes.length < HEADER)
    return problem(file, 0, `${bytes.length} bytes are no table, its header alone has ${HEADER}`);
  const signature = textAt(bytes, 0, 4);
  if (signature !== 'SRAT') return problem(file, 0, `the signature is ${JSON.stringify(signature)}, not "SRAT"`);
  const whole = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = whole.getUint32(4, true);
  if (length < HEADER)
    return problem(file, 0, `the table says that it is ${length} bytes long, its header has ${HEADER}`);
  if (length > bytes.length)
    return problem(file, 0, `the table is ${length} bytes long, the file ends after ${bytes.length}`);
  const table = bytes.subarray(0, length);
  const sum = sumOf(table);
  if (sum !== 0) return problem(file, 0, `the bytes add up to ${sum} modulo 256, not to 0: the checksum is wrong`);
  const entries: SratEntry[] = [];
  for (let at = HEADER; at < length; ) {
    const rest = length - at;
    const size = rest < 2 ? 0 : (table[at + 1] as number);
    if (size < 2 || size > rest)
      return problem(file, 0, `the entry at byte ${at} is ${size} bytes long, and ${rest} are left`);
    const entry = entryOf(new DataView(table.buffer, table.byteOffset + at, size));
    if (typeof entry === 'string') return problem(file, 0, `the entry at byte ${at}: ${entry}`);
    entries.push(entry);
    at += size;
  }
  return ok({
    revision: table[8] as number,
    oemId: textAt(table, 10, 6),
    oemTableId: textAt(table, 16, 8),
    oemRevision: whole.getUint32(24, true),
    creatorId: textAt(table, 28, 4),
    creatorRevision: whole.getUint32(32, true),
    entries,
  });
}

function entryOf(e: DataView): SratEntry | string {
  const type = e.getUint8(0);
  const least =
    type === TYPE_CPU ? CPU_LENGTH : type === TYPE_MEMORY ? MEMORY_LENGTH : type === TYPE_X2APIC ? X2APIC_LENGTH : 2;
  if (e.byteLength < least) return `type ${type} has ${least} bytes, this one ${e.byteLength}`;
  // Longer than this revision knows: Linux reads what it knows; to print it back, it is kept as it is.
  if (e.byteLength > least)
    return { kind: 'other', bytes: new Uint8Array(e.buffer.slice(e.byteOffset, e.byteOffset + e.byteLength)) };
  if (type === TYPE_CPU) {
    const high = e.getUint8(9) | (e.getUint8(10) << 8) | (e.getUint8(11) << 16);
    return {
      kind: 'cpu',
      id: 'apic',
      proximity: high * 256 + e.getUint8(2),
      apicId: e.getUint8(3),
      enabled: (e.getUint32(4, true) & ENABLED) !== 0,
      sapicEid: e.getUint8(8),
      clockDomain: e.getUint32(12, true),
    };
  }
  if (type === TYPE_X2APIC) {
    return {
      kind: 'cpu',
      id: 'x2apic',
      proximity: e.getUint32(4, true),
      apicId: e.getUint32(8, true),
      enabled: (e.getUint32(12, true) & ENABLED) !== 0,
      sapicEid: 0,
      clockDomain: e.getUint32(16, true),
    };
  }
  const base = wide(e, 8);
  const length = wide(e, 16);
  if (!Number.isSafeInteger(base + length)) return 'memory beyond 2^53 bytes';
  const flags = e.getUint32(28, true);
  return {
    kind: 'memory',
    proximity: e.getUint32(2, true),
    base,
    length,
    enabled: (flags & ENABLED) !== 0,
    hotpluggable: (flags & HOT_PLUGGABLE) !== 0,
    nonVolatile: (flags & NON_VOLATILE) !== 0,
  };
}

const wide = (e: DataView, at: number): number => e.getUint32(at + 4, true) * 2 ** 32 + e.getUint32(at, true);

/** The table as firmware would lay it out, checksum and all: parseSrat gives the same value back. */
export function printSrat(srat: Srat): Uint8Array {
  const sizes = srat.entries.map((e) =>
    e.kind === 'other'
      ? e.bytes.length
      : e.kind === 'memory'
        ? MEMORY_LENGTH
        : e.id === 'apic'
          ? CPU_LENGTH
          : X2APIC_LENGTH,
  );
  const out = new Uint8Array(HEADER + sizes.reduce((n, s) => n + s, 0));
  const table = new DataView(out.buffer);
  putText(out, 0, 'SRAT', 4);
  table.setUint32(4, out.length, true);
  out[8] = srat.revision;
  putText(out, 10, srat.oemId, 6);
  putText(out, 16, srat.oemTableId, 8);
  table.setUint32(24, srat.oemRevision, true);
  putText(out, 28, srat.creatorId, 4);
  table.setUint32(32, srat.creatorRevision, true);
  table.setUint32(36, 1, true);
  let at = HEADER;
  srat.entries.forEach((e, k) => {
    const size = sizes[k] as number; // one size an entry
    if (e.kind === 'other') out.set(e.bytes, at);
    else putEntry(new DataView(out.buffer, at, size), e);
    at += size;
  });
  out[9] = (256 - sumOf(out)) & 0xff;
  return out;
}

function putEntry(to: DataView, e: SratCpu | SratMemory): void {
  to.setUint8(1, to.byteLength);
  if (e.kind === 'memory') {
    to.setUint8(0, TYPE_MEMORY);
    to.setUint32(2, e.proximity, true);
    putWide(to, 8, e.base);
    putWide(to, 16, e.length);
    const flags = (e.enabled ? ENABLED : 0) | (e.hotpluggable ? HOT_PLUGGABLE : 0) | (e.nonVolatile ? NON_VOLATILE : 0);
    to.setUint32(28, flags, true);
  } else if (e.id === 'apic') {
    to.setUint8(0, TYPE_CPU);
    to.setUint8(2, e.proximity & 0xff);
    to.setUint8(3, e.apicId);
    to.setUint32(4, e.enabled ? ENABLED : 0, true);
    to.setUint8(8, e.sapicEid);
    for (let k = 0; k < 3; k++) to.setUint8(9 + k, Math.floor(e.proximity / 256 ** (k + 1)) & 0xff);
    to.setUint32(12, e.clockDomain, true);
  } else {
    to.setUint8(0, TYPE_X2APIC);
    to.setUint32(4, e.proximity, true);
    to.setUint32(8, e.apicId, true);
    to.setUint32(12, e.enabled ? ENABLED : 0, true);
    to.setUint32(16, e.clockDomain, true);
  }
}

function putWide(to: DataView, at: number, n: number): void {
  to.setUint32(at, n % 2 ** 32, true);
  to.setUint32(at + 4, Math.floor(n / 2 ** 32), true);
}

function putText(out: Uint8Array, at: number, text: string, length: number): void {
  for (let k = 0; k < Math.min(length, text.length); k++) out[at + k] = text.charCodeAt(k);
}
