// The table of a bundle: its contents as JSON, and the one place that turns foreign JSON into types.
//
//   { "tool": "0.1.0", "takenAt": "2026-11-20T23:57:00.000Z", "kernelRelease": "6.1.0-56-amd64",
//     "problems": [ { "file", "kind", "detail", "lost", "remedy" } ... ],
//     "cgroups":  [ [4242, "/system.slice"] ... ],
//     "pools":    "pools:\n  - name: web\n    size: 512M\n",                    only where somebody made some
//     "chunks":   [ { "bytes": 9000, "rawBytes": 80000, "rawCrc": 3405691582 } ... ],
//     "entries":  [ { "path": "/proc/zoneinfo", "kind": "text", "chunk": 0, "bytes": 5391, "startedMs": 12, "endedMs": 13 }
//                   { "path": "/proc/kpageflags", "kind": "runs", "chunk": 1, ... }
//                   { "path": "/sys/devices/system/memory/memory3/node0", "kind": "link", "bytes": 0, ... } ] }
//
// Entries of one chunk follow each other in it without a gap. A field that is not known is dropped on reading; one that
// is missing, or of the wrong kind, or out of range, refuses the whole table. Paths are checked by the bundle.

import type { CaptureProblem } from './capture.ts';
import { isPlainLine } from './redact.ts';

export type TableEntry = {
  readonly path: string;
  readonly kind: 'text' | 'link' | 'runs';
  readonly chunk: number;
  readonly bytes: number;
  readonly startedMs: number;
  readonly endedMs: number;
};

export type TableChunk = { readonly bytes: number; readonly rawBytes: number; readonly rawCrc: number };

export type BundleTable = {
  readonly tool: string;
  readonly takenAt?: string;
  readonly kernelRelease?: string;
  readonly problems: readonly CaptureProblem[];
  readonly cgroups: readonly (readonly [inode: number, path: string])[];
  readonly pools?: string;
  readonly chunks: readonly TableChunk[];
  readonly entries: readonly TableEntry[];
};

const PROBLEM_KINDS: readonly CaptureProblem['kind'][] = ['absent', 'denied', 'hidden', 'torn', 'truncated', 'corrupt'];
/** More than a thousand pools take. */
const POOLS_LENGTH_MAX = 2 ** 20;
const ENTRY_KINDS: readonly TableEntry['kind'][] = ['text', 'link', 'runs'];

/** The table, or undefined when this is none. Cost O(table). */
export function parseTable(json: unknown): BundleTable | undefined {
  const table = fieldsOf(json);
  const about = parseAbout(json);
  const chunks = listOf(table?.chunks, parseChunk);
  const entries = listOf(table?.entries, parseEntry);
  const tool = lineOf(table?.tool);
  if (about === undefined || chunks === undefined || entries === undefined || tool === undefined) return undefined;
  return { tool, ...about, chunks, entries };
}

/** What is known of the capture as a whole; also what an unpacked directory keeps in its capture.json. */
export type CaptureAbout = Pick<BundleTable, 'takenAt' | 'kernelRelease' | 'problems' | 'cgroups' | 'pools'>;

export function parseAbout(json: unknown): CaptureAbout | undefined {
  const about = fieldsOf(json);
  const problems = listOf(about?.problems, parseProblem);
  const cgroups = listOf(about?.cgroups, parseCgroup);
  if (about === undefined || problems === undefined || cgroups === undefined) return undefined;
  const takenAt = lineOf(about.takenAt);
  const kernelRelease = lineOf(about.kernelRelease);
  if (takenAt === undefined ? about.takenAt !== undefined : !/^\d{4}-\d\d-\d\dT[\d:.]+Z$/.test(takenAt))
    return undefined;
  if (kernelRelease === undefined && about.kernelRelease !== undefined) return undefined;
  const pools = linesOf(about.pools);
  if (pools === undefined && about.pools !== undefined) return undefined;
  return {
    ...(takenAt === undefined ? {} : { takenAt }),
    ...(kernelRelease === undefined ? {} : { kernelRelease }),
    problems,
    cgroups,
    ...(pools === undefined ? {} : { pools }),
  };
}

function parseProblem(json: unknown): CaptureProblem | undefined {
  const fields = fieldsOf(json);
  const kind = PROBLEM_KINDS.find((known) => known === fields?.kind);
  const [file, detail, lost, remedy] = [fields?.file, fields?.detail, fields?.lost, fields?.remedy].map(lineOf);
  if (kind === undefined || file === undefined || detail === undefined || lost === undefined || remedy === undefined)
    return undefined;
  return { file, kind, detail, lost, remedy };
}

function parseCgroup(json: unknown): readonly [number, string] | undefined {
  if (!Array.isArray(json) || json.length !== 2) return undefined;
  const inode = countOf(json[0]);
  const path = lineOf(json[1]);
  return inode === undefined || path === undefined ? undefined : [inode, path];
}

function parseChunk(json: unknown): TableChunk | undefined {
  const fields = fieldsOf(json);
  const [bytes, rawBytes, rawCrc] = [fields?.bytes, fields?.rawBytes, fields?.rawCrc].map(countOf);
  if (bytes === undefined || rawBytes === undefined || rawCrc === undefined) return undefined;
  return { bytes, rawBytes, rawCrc };
}

function parseEntry(json: unknown): TableEntry | undefined {
  const fields = fieldsOf(json);
  const path = textOf(fields?.path);
  const kind = ENTRY_KINDS.find((known) => known === fields?.kind);
  const [chunk, bytes, startedMs, endedMs] = [fields?.chunk, fields?.bytes, fields?.startedMs, fields?.endedMs].map(
    countOf,
  );
  if (path === undefined || kind === undefined || chunk === undefined || bytes === undefined) return undefined;
  if (startedMs === undefined || endedMs === undefined || endedMs < startedMs) return undefined;
  if (kind === 'link' && bytes !== 0) return undefined;
  return { path, kind, chunk, bytes, startedMs, endedMs };
}

/** The object's own fields; undefined for everything that is not a plain object. */
function fieldsOf(json: unknown): Readonly<Record<string, unknown>> | undefined {
  return typeof json === 'object' && json !== null && !Array.isArray(json)
    ? (json as Readonly<Record<string, unknown>>) // an object from JSON has string keys and unknown values
    : undefined;
}

const textOf = (json: unknown): string | undefined => (typeof json === 'string' ? json : undefined);

/** One line of text: what is printed to a terminal as it is must not be able to steer it. */
const lineOf = (json: unknown): string | undefined =>
  typeof json === 'string' && isPlainLine(json) ? json : undefined;

/** Lines of text, not too many of them. */
const linesOf = (json: unknown): string | undefined =>
  typeof json === 'string' && json.length <= POOLS_LENGTH_MAX && json.split('\n').every(isPlainLine) ? json : undefined;

const countOf = (json: unknown): number | undefined =>
  typeof json === 'number' && Number.isSafeInteger(json) && json >= 0 ? json : undefined;

function listOf<T>(json: unknown, parse: (item: unknown) => T | undefined): readonly T[] | undefined {
  if (!Array.isArray(json)) return undefined;
  const items: T[] = [];
  for (const item of json) {
    const parsed = parse(item);
    if (parsed === undefined) return undefined;
    items.push(parsed);
  }
  return items;
}
