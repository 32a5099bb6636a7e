// Bundle: one capture as one small file (*.dimmer), version 1.
//
//   offset  bytes  field
//        0      8  magic      89 44 49 4d 4d 0d 0a 1a   "\x89DIMM\r\n\x1a": not text, and damage by text transfer shows
//        8      2  version    little-endian, like all numbers here
//       10      2  ~version   its complement: only a pair that fits is believed to be a newer version
//       12      4  bodyBytes  bytes after this header: the file is exactly 32 + bodyBytes long
//       16      4  bodyCrc    CRC-32 of the body
//       20      4  tableBytes the table as it stands in the body, gzip
//       24      4  tableRaw   the table as JSON, UTF-8
//       28      4  headerCrc  CRC-32 of bytes 0..27
//       32         body: table (gzip), chunk 0 (gzip), chunk 1 (gzip), ...
//
// Chunk 0 is the text of all text files, one after the other in the order of the table; each page file is a chunk of
// its own (page-runs.ts). The table (bundle-table.ts) names the files, when each was read, and what is known of the
// capture as a whole.
//
// A reader believes nothing: lengths are checked against the file before anything is allocated, a chunk may unpack to no
// more than deflate can reach, all chunks together to no more than UNPACKED_MAX, both checksums have to fit, and what follows has to be
// canonical. Outcome of a damaged file: a refusal, never another capture. No throw, whatever the bytes.
//
// Versions: magic and the version pair stay where they are for ever. A reader opens its own version and all before it:
// UPGRADERS turns the table of version k into that of k + 1. docs/formats/capture.md has the policy.

import { assert } from '#base/assert';
import { err, ok, type Result } from '#base/result';
import { type BundleTable, parseTable, type TableEntry } from './bundle-table.ts';
import { ByteReader, ByteWriter, crc32 } from './bytes.ts';
import type { Capture, CaptureOrigin } from './capture.ts';
import { recordedTreeOf } from './gather.ts';
import { PAGES } from './manifest.ts';
import { decodeRuns, encodeRuns, type PageRuns } from './page-runs.ts';
import { firstBadPath, type ReadTime, type RecordedFile, RecordedTree } from './recorded-tree.ts';

export const BUNDLE_VERSION = 1;
export const BUNDLE_MAGIC: readonly number[] = [0x89, 0x44, 0x49, 0x4d, 0x4d, 0x0d, 0x0a, 0x1a];
export const BUNDLE_HEADER_BYTES = 32;

/** All parts together unpack to no more than this. */
const UNPACKED_MAX = 2 ** 30;

/** Deflate cannot shrink a byte run by more than 1032 : 1. */
const DEFLATE_RATIO_MAX = 1032;

/** Entry k turns the JSON table of version k + 1 into that of version k + 2. */
const UPGRADERS: readonly ((table: unknown) => unknown)[] = [];
assert(UPGRADERS.length === BUNDLE_VERSION - 1, 'every old version has an upgrader', { upgraders: UPGRADERS.length });

export type BundleRefusal = {
  readonly reason: 'foreign' | 'newer' | 'truncated' | 'corrupt';
  /** One sentence for people, beginning with the name of the file. */
  readonly sentence: string;
};

export type Gzip = (bytes: Uint8Array) => Uint8Array;
/** Exactly `rawBytes` bytes, or undefined: damaged, shorter, or longer. Never allocates much more than `rawBytes`. */
export type Gunzip = (bytes: Uint8Array, rawBytes: number) => Uint8Array | undefined;

/** True when these first bytes of a file (8 are enough) are those of a bundle of any version. */
export const looksLikeBundle = (head: Uint8Array): boolean =>
  head.length >= BUNDLE_MAGIC.length && BUNDLE_MAGIC.every((byte, i) => head[i] === byte);

/**
 * The capture as bytes. Equal captures give equal bytes. A tree that is not a recorded one is first read through the
 * manifest. Cost: one pass over the runs and the text.
 */
export function encodeBundle(capture: Capture, options: { gzip: Gzip; toolVersion: string }): Uint8Array {
  const tree = recordedTreeOf(capture);
  const utf8 = new TextEncoder();
  const entries: TableEntry[] = [];
  const text = new ByteWriter(1 << 16);
  for (const { path, kind, text: body, startedMs, endedMs } of tree.files) {
    const bytes = utf8.encode(body);
    text.append(bytes);
    entries.push({ path, kind, chunk: 0, bytes: bytes.length, startedMs, endedMs });
  }
  const raw = [text.finish()];
  for (const { path, field } of PAGES) {
    const runs = capture[field];
    if (runs === undefined) continue;
    const bytes = encodeRuns(runs);
    const read = tree.pageReads.get(path) ?? { startedMs: 0, endedMs: 0 };
    entries.push({ path, kind: 'runs', chunk: raw.length, bytes: bytes.length, ...read });
    raw.push(bytes);
  }
  const chunks = raw.map(options.gzip);
  const kernelRelease = /^Linux version (\S+)/.exec(tree.readText('/proc/version') ?? '')?.[1];
  const table: BundleTable = {
    tool: options.toolVersion,
    ...(capture.origin.takenAt === undefined ? {} : { takenAt: capture.origin.takenAt }),
    ...(kernelRelease === undefined ? {} : { kernelRelease }),
    problems: capture.problems,
    cgroups: [...capture.cgroups].sort(([a], [b]) => a - b),
    ...(capture.pools === undefined ? {} : { pools: capture.pools }),
    chunks: chunks.map((chunk, i) => ({ bytes: chunk.length, rawBytes: raw[i].length, rawCrc: crc32(raw[i]) })),
    entries,
  };
  const tableRaw = utf8.encode(JSON.stringify(table));
  assert(
    raw.reduce((sum, chunk) => sum + chunk.length, tableRaw.length) <= UNPACKED_MAX,
    'a capture larger than the format takes',
  );
  const tableGzip = options.gzip(tableRaw);

  const bodyBytes = tableGzip.length + chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  const body = new ByteWriter(bodyBytes);
  for (const part of [tableGzip, ...chunks]) body.append(part);
  const bodyDone = body.finish();

  const header = new ByteWriter(BUNDLE_HEADER_BYTES);
  header.append(Uint8Array.from(BUNDLE_MAGIC));
  header.u32(versionWord(BUNDLE_VERSION));
  for (const field of [bodyBytes, crc32(bodyDone), tableGzip.length, tableRaw.length]) header.u32(field);
  header.u32(crc32(header.finish()));

  const file = new ByteWriter(BUNDLE_HEADER_BYTES + bodyBytes);
  file.append(header.finish());
  file.append(bodyDone);
  return file.finish();
}

/** Version and complement as one word: 1 -> 0xfffe0001. */
const versionWord = (version: number): number => (version | (~version << 16)) >>> 0;

/**
 * The capture that `encodeBundle` was given, or why these bytes are none. `name` is what the user called the file.
 * Safe on hostile bytes: see the head of this file.
 */
export function decodeBundle(
  bytes: Uint8Array,
  options: { gunzip: Gunzip; name: string },
): Result<Capture, BundleRefusal> {
  const { name, gunzip } = options;
  const header = readHeader(bytes, name);
  if (!header.ok) return header;
  const { version, tableBytes, tableRaw } = header.value;
  const corrupt = (what: string): Result<never, BundleRefusal> =>
    refuse('corrupt', `${name} is damaged: ${what}. Copy it again from where it was made.`);

  let at = BUNDLE_HEADER_BYTES;
  let room = UNPACKED_MAX;
  const unpack = (packedBytes: number, rawBytes: number): Uint8Array | undefined => {
    if (packedBytes > bytes.length - at || rawBytes > room) return undefined;
    if (rawBytes > packedBytes * DEFLATE_RATIO_MAX) return undefined;
    const packed = bytes.subarray(at, at + packedBytes);
    at += packedBytes;
    room -= rawBytes;
    const raw = gunzip(packed, rawBytes);
    return raw?.length === rawBytes ? raw : undefined;
  };

  const tableText = decodeText(unpack(tableBytes, tableRaw));
  if (tableText === undefined) return corrupt('its table of contents does not unpack');
  let json = parseJson(tableText);
  for (let from = version; from < BUNDLE_VERSION; from++) json = UPGRADERS[from - 1](json);
  const table = parseTable(json);
  if (table === undefined) return corrupt('its table of contents is not understood');
  if (firstBadPath(table.entries.map((entry) => entry.path)) !== undefined)
    return corrupt('it names a file that is not one of the kernel');

  const chunks: Uint8Array[] = [];
  for (const { bytes: packedBytes, rawBytes, rawCrc } of table.chunks) {
    const raw = unpack(packedBytes, rawBytes);
    if (raw === undefined || crc32(raw) !== rawCrc) return corrupt(`part ${chunks.length} of it does not unpack`);
    chunks.push(raw);
  }
  if (at !== bytes.length) return corrupt('it is longer than its table of contents says');

  const files: RecordedFile[] = [];
  const pageReads = new Map<string, ReadTime>();
  const pages: { -readonly [F in 'kpageflags' | 'kpagecount' | 'kpagecgroup']?: PageRuns } = {};
  const used = new Float64Array(chunks.length);
  for (const { path, kind, chunk, bytes: length, startedMs, endedMs } of table.entries) {
    if (chunk >= chunks.length || length > chunks[chunk].length - used[chunk]) return corrupt(`${path} is cut short`);
    const raw = chunks[chunk].subarray(used[chunk], used[chunk] + length);
    used[chunk] += length;
    if (kind === 'runs') {
      const field = PAGES.find((file) => file.path === path)?.field;
      const runs = decodeRuns(raw);
      if (field === undefined || runs === undefined) return corrupt(`the page words of ${path} are not understood`);
      pages[field] = runs;
      pageReads.set(path, { startedMs, endedMs });
      continue;
    }
    const text = decodeText(raw);
    if (text === undefined) return corrupt(`${path} is not text`);
    files.push({ path, kind, text, startedMs, endedMs });
  }
  if (used.some((length, i) => length !== chunks[i].length)) return corrupt('it holds bytes that belong to no file');

  const origin: CaptureOrigin = {
    kind: 'bundle',
    name,
    ...(table.takenAt === undefined ? {} : { takenAt: table.takenAt }),
  };
  return ok({
    origin,
    tree: new RecordedTree(files, pageReads),
    ...pages,
    cgroups: new Map(table.cgroups),
    problems: table.problems,
    ...(table.pools === undefined ? {} : { pools: table.pools }),
  });
}

type Header = { readonly version: number; readonly tableBytes: number; readonly tableRaw: number };

function readHeader(bytes: Uint8Array, name: string): Result<Header, BundleRefusal> {
  const head = bytes.subarray(0, BUNDLE_MAGIC.length);
  if (bytes.length === 0) return refuse('truncated', `${name} is empty. Copy or capture it again.`);
  if (!head.every((byte, i) => byte === BUNDLE_MAGIC[i])) {
    const textTransfer = head.length > 5 && head.subarray(0, 5).every((byte, i) => byte === BUNDLE_MAGIC[i]);
    return textTransfer
      ? refuse('corrupt', `${name} was damaged on the way (sent as text?). Copy it again in binary mode.`)
      : refuse('foreign', `${name} is not a dimmer bundle. Make one with: dimmer capture -o FILE`);
  }
  const cut = (of: string): Result<never, BundleRefusal> =>
    refuse('truncated', `${name} is cut short: ${bytes.length} bytes of ${of} are there. Copy it again.`);
  if (bytes.length < 12) return cut(`the first ${BUNDLE_HEADER_BYTES}`);
  const from = new ByteReader(bytes.subarray(8, BUNDLE_HEADER_BYTES));
  const pair = from.u32();
  const version = pair & 0xffff;
  const believed = pair === versionWord(version);
  if (believed && version > BUNDLE_VERSION)
    return refuse(
      'newer',
      `${name} has format version ${version}; this dimmer reads up to ${BUNDLE_VERSION}. Use a newer dimmer.`,
    );
  if (bytes.length < BUNDLE_HEADER_BYTES) return cut(`the first ${BUNDLE_HEADER_BYTES}`);
  const [bodyBytes, bodyCrc, tableBytes, tableRaw, headerCrc] = [0, 1, 2, 3, 4].map(() => from.u32());
  if (!believed || version === 0 || crc32(bytes.subarray(0, BUNDLE_HEADER_BYTES - 4)) !== headerCrc)
    return refuse('corrupt', `${name} is damaged: its header does not add up. Copy it again from where it was made.`);
  const body = bytes.subarray(BUNDLE_HEADER_BYTES);
  if (body.length < bodyBytes) return cut(String(BUNDLE_HEADER_BYTES + bodyBytes));
  if (body.length > bodyBytes || crc32(body) !== bodyCrc)
    return refuse('corrupt', `${name} is damaged: its checksum does not fit. Copy it again from where it was made.`);
  return ok({ version, tableBytes, tableRaw });
}

const refuse = (reason: BundleRefusal['reason'], sentence: string): Result<never, BundleRefusal> =>
  err({ reason, sentence });

/** UTF-8, or undefined for bytes that are not. A byte order mark is kept: text comes back as it was. */
function decodeText(bytes: Uint8Array | undefined): string | undefined {
  if (bytes === undefined) return undefined;
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
