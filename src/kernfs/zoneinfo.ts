// /proc/zoneinfo: watermarks, sizes and counters of every zone, empty ones included.
//
//   Node 0, zone    DMA32
//     per-node stats                      only under the first populated zone of a node
//         nr_inactive_anon 96             counters: six blanks, name to twelve columns
//     pages free     233397
//           boost    0                    fields: promo is in 6.12, not yet in 6.1
//           ...
//           protection: (0, 0, 0, 0, 0)   one figure per zone index; an empty zone ends here
//         nr_free_pages 233397            zone counters, then NUMA counters
//     pagesets
//       cpu: 0
//                 count: 294              per-CPU lists; 6.18 prints them wider, with
//                 high:  10615              high_min and high_max
//                 batch: 63
//     vm stats threshold: 16              (SMP kernels)
//     node_unreclaimable:  0
//     start_pfn:           4096           later kernels add lines behind it
//
// All figures are pages, but vm stats threshold (counts) and node_unreclaimable (0 or 1).
// Lines that a later kernel adds among the fields or behind start_pfn are kept as `otherFields` and `otherTail` and
// printed at the end of their group. Invariants, all checked: zones in order; every node has the same zone names;
// every zone has the same fields, every populated one the same counters and CPUs; so that a piece missing inside is
// always seen, and a missing tail unless it is all of the last node.
// Follows Linux v6.12 mm/vmstat.c: zoneinfo_show_print(); spec 6.

import type { Err, Result } from '#base/result';
import { ok } from '#base/result';
import type { KernfsProblem } from './source.ts';
import { linesOf, printCount, problem, quoted, readCount, readInt } from './text.ts';
import type { ZoneLabel } from './zone-label.ts';
import { isInOrder, printZoneLabel, readZoneLabel, sayZone } from './zone-label.ts';

/** A counter as printed: name and value, in the file's order. */
export type NamedCount = readonly [name: string, count: number];

/** The lists of free pages that one CPU keeps of one zone, in pages. */
export type ZoneinfoPageset = {
  readonly cpu: number;
  readonly count: number;
  readonly high: number;
  readonly batch: number;
  /** Both or none; with them the kernel prints the wider form. */
  readonly highMin?: number;
  readonly highMax?: number;
  /** How far a CPU's counter may drift before it is folded in; absent on kernels without SMP. */
  readonly statThreshold?: number;
};

export type ZoneinfoZone = ZoneLabel & {
  /** On the first populated zone of each node. */
  readonly perNodeStats?: readonly NamedCount[];
  readonly free: number;
  readonly boost?: number;
  readonly min: number;
  readonly low: number;
  readonly high: number;
  readonly promo?: number;
  readonly spanned: number;
  readonly present: number;
  readonly managed: number;
  readonly cma?: number;
  readonly otherFields?: readonly NamedCount[];
  /** lowmem_reserve by zone index. */
  readonly protection: readonly number[];
  /** Zone and NUMA counters; [] for an empty zone, like `pagesets`. */
  readonly stats: readonly NamedCount[];
  readonly pagesets: readonly ZoneinfoPageset[];
  /** Present exactly where the zone is populated, like startPfn. */
  readonly nodeUnreclaimable?: number;
  readonly startPfn?: number;
  readonly otherTail?: readonly NamedCount[];
};

/** The counter of this name, undefined where this kernel has none. */
export const statOf = (stats: readonly NamedCount[], name: string): number | undefined =>
  stats.find((entry) => entry[0] === name)?.[1];

/** Populated means that the zone has present pages: the kernel then prints its counters. */
export const isPopulated = (zone: ZoneinfoZone): boolean => zone.startPfn !== undefined;

/** Zones in file order. Cost O(text). */
export function parseZoneinfo(text: string, file = '/proc/zoneinfo'): Result<ZoneinfoZone[], KernfsProblem> {
  const lines = linesOf(text, file);
  if (!lines.ok) return lines;
  const cursor = new Cursor(lines.value, file);
  const zones: ZoneinfoZone[] = [];
  const shapes = new Shapes();
  while (cursor.line !== undefined) {
    const headLine = cursor.lineNumber;
    const zone = parseZone(cursor);
    if (!zone.ok) return zone;
    if (!isInOrder(zones.at(-1), zone.value)) {
      return problem(file, headLine, `${sayZone(zone.value)} does not belong here`);
    }
    const different = shapes.differenceOf(zone.value);
    if (different !== undefined) return problem(file, headLine, different);
    zones.push(zone.value);
  }
  const different = shapes.differenceOfNodes(zones);
  return different === undefined ? ok(zones) : problem(file, lines.value.length, different);
}

export function printZoneinfo(zones: readonly ZoneinfoZone[]): string {
  let text = '';
  for (const zone of zones) text += printZone(zone);
  return text;
}

function printZone(z: ZoneinfoZone): string {
  let text = `${printZoneLabel(z)}\n`;
  if (z.perNodeStats !== undefined) text += `  per-node stats\n${printStats(z.perNodeStats)}`;
  text += `  pages free     ${printCount(z.free)}\n`;
  for (const name of FIELD_ORDER) {
    const count = z[name];
    if (count !== undefined) text += printField(name, count);
  }
  for (const [name, count] of z.otherFields ?? []) text += printField(name, count);
  text += `        protection: (${z.protection.map(printCount).join(', ')})\n`;
  if (!isPopulated(z)) return text;

  text += `${printStats(z.stats)}  pagesets\n`;
  for (const p of z.pagesets) {
    const wide = p.highMin !== undefined && p.highMax !== undefined;
    const row = (name: string, n: number) => `              ${`${name}:`.padEnd(wide ? 10 : 7)}${n}\n`;
    text += `    cpu: ${p.cpu}\n${row('count', p.count)}${row('high', p.high)}${row('batch', p.batch)}`;
    if (p.highMin !== undefined && p.highMax !== undefined) {
      text += row('high_min', p.highMin) + row('high_max', p.highMax);
    }
    if (p.statThreshold !== undefined) text += `  vm stats threshold: ${p.statThreshold}\n`;
  }
  const tail: NamedCount[] = [];
  if (z.nodeUnreclaimable !== undefined) tail.push(['node_unreclaimable', z.nodeUnreclaimable]);
  if (z.startPfn !== undefined) tail.push(['start_pfn', z.startPfn]);
  for (const [name, count] of [...tail, ...(z.otherTail ?? [])]) {
    text += `  ${`${name}:`.padEnd(21)}${printCount(count)}\n`;
  }
  return text;
}

const printStats = (stats: readonly NamedCount[]): string =>
  stats.map(([name, count]) => `      ${name.padEnd(12)} ${printCount(count)}\n`).join('');

const printField = (name: string, count: number): string => `        ${name.padEnd(8)} ${printCount(count)}\n`;

/** Fields behind "pages free", in the kernel's order. */
const FIELD_ORDER = ['boost', 'min', 'low', 'high', 'promo', 'spanned', 'present', 'managed', 'cma'] as const;
type FieldName = (typeof FIELD_ORDER)[number];
const REQUIRED_FIELDS: readonly FieldName[] = ['min', 'low', 'high', 'spanned', 'present', 'managed'];

/** Lines with a position: `line` is undefined at the end. */
class Cursor {
  readonly lines: readonly string[];
  readonly file: string;
  #at = 0;

  constructor(lines: readonly string[], file: string) {
    this.lines = lines;
    this.file = file;
  }

  get line(): string | undefined {
    return this.lines[this.#at];
  }

  /** 1-based. */
  get lineNumber(): number {
    return this.#at + 1;
  }

  /** The pattern's groups, and a step forward; undefined, and no step, when the line does not match or is missing. */
  take(pattern: RegExp): RegExpExecArray | undefined {
    const m = this.line === undefined ? null : pattern.exec(this.line);
    if (m === null) return undefined;
    this.#at++;
    return m;
  }

  expected(what: string): Err<KernfsProblem> {
    if (this.line === undefined) {
      return problem(this.file, this.lines.length, `the file ends where ${what} should follow`);
    }
    return problem(this.file, this.lineNumber, `expected ${what}, found ${quoted(this.line)}`);
  }
}

const HEAD = /^Node .*$/;
const PER_NODE = /^ +per-node stats *$/;
const STAT = /^ +([a-z][a-z0-9_]*) +(\d+) *$/;
const FREE = /^ +pages free +(\d+) *$/;
const PROTECTION = /^ +protection: +\((\d+(?:, +\d+)*)\) *$/;
const PAGESETS = /^ +pagesets *$/;
const CPU = /^ +cpu: +(\d+) *$/;
const THRESHOLD = /^ +vm stats threshold: +(\d+) *$/;
const UNRECLAIMABLE = /^ +node_unreclaimable: +(\d+) *$/;
const START_PFN = /^ +start_pfn: +(\d+) *$/;
const TAIL = /^ +([a-z][a-z0-9_]*): +(\d+) *$/;
const pagesetRow = (name: string): RegExp => new RegExp(`^ +${name}: +(-?\\d+) *$`);
const COUNT_ROW = pagesetRow('count');
const HIGH_ROW = pagesetRow('high');
const BATCH_ROW = pagesetRow('batch');
const HIGH_MIN_ROW = pagesetRow('high_min');
const HIGH_MAX_ROW = pagesetRow('high_max');

function parseZone(cursor: Cursor): Result<ZoneinfoZone, KernfsProblem> {
  const label = readZoneLabel(cursor.line ?? '');
  if (label === undefined || label.rest.trim() !== '') return cursor.expected('"Node N, zone NAME"');
  cursor.take(HEAD);
  let perNodeStats: readonly NamedCount[] | undefined;
  if (cursor.take(PER_NODE) !== undefined) {
    const stats = parseStats(cursor);
    if (!stats.ok) return stats;
    perNodeStats = stats.value;
  }

  const free = readTaken(cursor, FREE);
  if (free === undefined) return cursor.expected('"pages free" and a count');
  const rows = parseStats(cursor);
  if (!rows.ok) return rows;
  const fields = new Map(rows.value);
  for (const name of REQUIRED_FIELDS) if (!fields.has(name)) return cursor.expected(`the field ${name}`);
  const inOrder = FIELD_ORDER.filter((name) => fields.has(name));
  const found = rows.value.map(([name]) => name).filter((name) => inOrder.some((known) => known === name));
  const misplaced = found.find((name, i) => name !== inOrder[i]);
  if (misplaced !== undefined) {
    return problem(cursor.file, cursor.lineNumber, `${misplaced} is out of order among the fields above this line`);
  }
  const reserves = cursor
    .take(PROTECTION)?.[1]
    .split(',')
    .map((cell) => readCount(cell.trim()));
  if (reserves === undefined || !isComplete(reserves)) return cursor.expected('"protection:" and its figures');
  const head = {
    node: label.node,
    zone: label.zone,
    ...(perNodeStats === undefined ? {} : { perNodeStats }),
    free,
    ...fieldsFrom(fields),
    protection: reserves,
  };
  const hasMore = cursor.line !== undefined && !HEAD.test(cursor.line);
  if (!hasMore) {
    if (head.present !== 0) return cursor.expected(`the counters of ${sayZone(label)}, which has present pages`);
    return ok({ ...head, stats: [], pagesets: [] });
  }

  const stats = parseStats(cursor);
  if (!stats.ok) return stats;
  if (cursor.take(PAGESETS) === undefined) return cursor.expected('a counter or "pagesets"');
  const pagesets = parsePagesets(cursor);
  if (!pagesets.ok) return pagesets;
  const tail = parseTail(cursor);
  if (!tail.ok) return tail;
  return ok({ ...head, stats: stats.value, pagesets: pagesets.value, ...tail.value });
}

const parseStats = (cursor: Cursor): Result<readonly NamedCount[], KernfsProblem> => parseRows(cursor, STAT);

/** Lines of a name and a count as long as they match; names are unique. */
function parseRows(cursor: Cursor, pattern: RegExp): Result<readonly NamedCount[], KernfsProblem> {
  const rows = new Map<string, number>();
  for (;;) {
    const m = pattern.exec(cursor.line ?? '');
    if (m === null) return ok([...rows]);
    const count = readCount(m[2]);
    if (count === undefined) return cursor.expected('a count of 64 bits');
    if (rows.has(m[1])) return problem(cursor.file, cursor.lineNumber, `${m[1]} was given before`);
    rows.set(m[1], count);
    cursor.take(pattern);
  }
}

function fieldsFrom(fields: ReadonlyMap<string, number>) {
  const known = new Set<string>(FIELD_ORDER);
  const otherFields = [...fields].filter(([name]) => !known.has(name));
  // The caller has checked that the required ones are there.
  const required = (name: FieldName): number => fields.get(name) as number;
  const optional = <N extends string>(name: N) =>
    (fields.has(name) ? { [name]: fields.get(name) } : {}) as { readonly [K in N]?: number };
  return {
    ...optional('boost'),
    min: required('min'),
    low: required('low'),
    high: required('high'),
    ...optional('promo'),
    spanned: required('spanned'),
    present: required('present'),
    managed: required('managed'),
    ...optional('cma'),
    ...(otherFields.length === 0 ? {} : { otherFields }),
  };
}

function parsePagesets(cursor: Cursor): Result<ZoneinfoPageset[], KernfsProblem> {
  const pagesets: ZoneinfoPageset[] = [];
  for (;;) {
    const cpu = readTaken(cursor, CPU);
    if (cpu === undefined) break;
    const previous = pagesets.at(-1);
    if (previous !== undefined && cpu <= previous.cpu) {
      return problem(cursor.file, cursor.lineNumber - 1, `cpu ${cpu} comes after cpu ${previous.cpu}`);
    }
    const count = readIntTaken(cursor, COUNT_ROW);
    if (count === undefined) return cursor.expected('"count:" and a number');
    const high = readIntTaken(cursor, HIGH_ROW);
    if (high === undefined) return cursor.expected('"high:" and a number');
    const batch = readIntTaken(cursor, BATCH_ROW);
    if (batch === undefined) return cursor.expected('"batch:" and a number');
    const highMin = readIntTaken(cursor, HIGH_MIN_ROW);
    const highMax = readIntTaken(cursor, HIGH_MAX_ROW);
    if ((highMin === undefined) !== (highMax === undefined)) return cursor.expected('both "high_min:" and "high_max:"');
    const statThreshold = readIntTaken(cursor, THRESHOLD);
    pagesets.push({
      cpu,
      count,
      high,
      batch,
      ...(highMin === undefined || highMax === undefined ? {} : { highMin, highMax }),
      ...(statThreshold === undefined ? {} : { statThreshold }),
    });
  }
  return pagesets.length === 0 ? cursor.expected('"cpu:" and a number') : ok(pagesets);
}

type Tail = {
  readonly nodeUnreclaimable: number;
  readonly startPfn: number;
  readonly otherTail?: readonly NamedCount[];
};

function parseTail(cursor: Cursor): Result<Tail, KernfsProblem> {
  const nodeUnreclaimable = readTaken(cursor, UNRECLAIMABLE);
  if (nodeUnreclaimable === undefined) return cursor.expected('"node_unreclaimable:" and a number');
  const startPfn = readTaken(cursor, START_PFN);
  if (startPfn === undefined) return cursor.expected('"start_pfn:" and a number');
  const otherTail = parseRows(cursor, TAIL);
  if (!otherTail.ok) return otherTail;
  return ok({ nodeUnreclaimable, startPfn, ...(otherTail.value.length === 0 ? {} : { otherTail: otherTail.value }) });
}

/** One number behind a label, stepping over the line; undefined, and no step, when it is not there. */
function readTaken(cursor: Cursor, pattern: RegExp): number | undefined {
  const n = readCount(pattern.exec(cursor.line ?? '')?.[1] ?? '');
  if (n !== undefined) cursor.take(pattern);
  return n;
}

function readIntTaken(cursor: Cursor, pattern: RegExp): number | undefined {
  const n = readInt(pattern.exec(cursor.line ?? '')?.[1] ?? '');
  if (n !== undefined) cursor.take(pattern);
  return n;
}

const isComplete = (counts: readonly (number | undefined)[]): counts is readonly number[] =>
  !counts.includes(undefined);

/** What all zones of one file have in common; the first one seen sets it. */
class Shapes {
  readonly #first = new Map<string, { readonly names: readonly string[]; readonly zone: ZoneLabel }>();

  /** A sentence when this zone's lines are not those of the zones before it. */
  differenceOf(z: ZoneinfoZone): string | undefined {
    const fields = FIELD_ORDER.filter((name) => z[name] !== undefined);
    const found = [
      this.#differs('fields', [...fields, ...namesOf(z.otherFields ?? [])], z),
      this.#differs(
        'protection',
        z.protection.map((_, i) => `figure ${i + 1}`),
        z,
      ),
    ];
    if (z.perNodeStats !== undefined) found.push(this.#differs('per-node stats', namesOf(z.perNodeStats), z));
    if (isPopulated(z)) {
      found.push(this.#differs('counters', namesOf(z.stats), z));
      found.push(this.#differs('pagesets', z.pagesets.map(sayPagesetShape), z));
      found.push(this.#differs('last lines', namesOf(z.otherTail ?? []), z));
    }
    return found.find((sentence) => sentence !== undefined);
  }

  /** A sentence when the nodes do not list the same zones, or their per-node stats stand elsewhere. */
  differenceOfNodes(zones: readonly ZoneinfoZone[]): string | undefined {
    let first: string | undefined;
    for (const node of new Set(zones.map((z) => z.node))) {
      const own = zones.filter((z) => z.node === node);
      const names = own.map((z) => z.zone).join(' ');
      first ??= names;
      if (names !== first) return `node ${node} has the zones ${names}, the nodes before it have ${first}`;
      const withStats = own.filter((z) => z.perNodeStats !== undefined);
      if (withStats.length > 1 || withStats[0] !== own.find(isPopulated)) {
        return `node ${node} does not have its per-node stats under its first populated zone`;
      }
    }
    return undefined;
  }

  #differs(what: string, names: readonly string[], zone: ZoneLabel): string | undefined {
    const first = this.#first.get(what);
    if (first === undefined) {
      this.#first.set(what, { names, zone });
      return undefined;
    }
    for (let i = 0; i < Math.max(names.length, first.names.length); i++) {
      if (names[i] === first.names[i]) continue;
      const instead = `${names[i] ?? 'nothing'} instead of ${first.names[i] ?? 'nothing'}`;
      return `the ${what} of ${sayZone(zone)} are not those of ${sayZone(first.zone)}: ${instead}`;
    }
    return undefined;
  }
}

const namesOf = (stats: readonly NamedCount[]): string[] => stats.map((entry) => entry[0]);

const sayPagesetShape = (p: ZoneinfoPageset): string =>
  `cpu ${p.cpu}${p.highMin === undefined ? '' : ' with high_min'}${p.statThreshold === undefined ? ' without threshold' : ''}`;
