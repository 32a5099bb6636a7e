// Recording: what was asked of a Host and what it said, as JSON lines in the order in which it happened.
//
//   {"dimmer":"host-recording","version":1}
//   {"n":1,"call":"info","deadlineMs":5000}                 call n begins
//   {"n":1,"info":{...}}                                    ... and its answer
//   {"n":2,"call":"observe","deadlineMs":5000}
//   {"n":2,"observed":{"=":{...}}}                          the first one whole
//   {"n":3,"call":"act","action":{...},"deadlineMs":10000}
//   {"n":3,"done":["state of memory34: offline"]}           evidence
//   {"n":4,"call":"observe","deadlineMs":5000}
//   {"n":4,"observed":{"~":{...}}}                          what is different since the last one (json-diff.ts)
//   {"n":5,"call":"observe","deadlineMs":5000}
//   {"n":5,"observed":null}                                 nothing is different
//   {"n":6,"call":"watch"}   {"n":6,"line":"DEVICE_DELETED dimm1"} ...   {"n":6,"ended":true}
//   {"n":7,"call":"capture",...}   {"n":7,"capture":{"kind":...,"name":...,"bundle":"base64"}}
//   {"n":8,"failed":{"kind":"refused","errno":"EBUSY",...}}              of whichever call
//   {"n":9,"cancel":true}                                   the caller's signal came while n was under way
//   {"n":10,"call":"close"}  {"n":10,"ended":true}
//
// Calls may overlap, as a watch and an action do: the lines keep the order of beginnings and ends. A recording that breaks
// off (the recorder was killed) is one that can be played to there.
//
// Invariants (readRecording): n is that of a call that began and has not ended; calls count from 1.

import { err, ok, type Result } from '#base/result';
import type { HostFailure, HostInfo } from '#control/host';
import type { Action } from '#plan/plan';
import type { JsonDiff } from './json-diff.ts';

export const RECORDING_VERSION = 1;
export const RECORDING_HEAD = `{"dimmer":"host-recording","version":${RECORDING_VERSION}}\n`;

export type Call =
  | { readonly call: 'info' | 'observe' | 'capture'; readonly deadlineMs: number }
  | { readonly call: 'act'; readonly action: Action; readonly deadlineMs: number }
  | { readonly call: 'watch' | 'close' };

/** HostInfo with its set and map as JSON has them. */
export type InfoLine = Omit<HostInfo, 'can' | 'cannot'> & {
  readonly can: readonly Action['do'][];
  readonly cannot: readonly (readonly [Action['do'], string])[];
};

export type CaptureLine = {
  readonly kind: string;
  readonly name: string;
  readonly takenAt?: string;
  /** A bundle in base64; absent: the recorder kept no captures. */
  readonly bundle?: string;
};

export type Answer =
  | { readonly info: InfoLine }
  | { readonly observed: JsonDiff | null }
  | { readonly done: readonly string[] }
  | { readonly capture: CaptureLine }
  | { readonly failed: HostFailure }
  | { readonly ended: true };

export type RecordingLine = { readonly n: number } & (
  | Call
  | Answer
  | { readonly line: string }
  | { readonly cancel: true }
);

/** "act: offline block 34", for people. */
export function sayCall(c: Call, sayAction: (a: Action) => string): string {
  return c.call === 'act' ? sayAction(c.action) : c.call;
}

const ANSWER_TO: Readonly<Record<Call['call'], string>> = {
  info: 'info',
  observe: 'observed',
  act: 'done',
  capture: 'capture',
  watch: 'ended',
  close: 'ended',
};

/**
 * The lines of a recording, or one sentence that says where it makes no sense. A last line without its newline was under way
 * when the recorder died, and is dropped. Cost O(length).
 */
export function readRecording(text: string): Result<readonly RecordingLine[], string> {
  const whole = text
    .slice(0, text.lastIndexOf('\n') + 1)
    .split('\n')
    .slice(0, -1);
  const head = parse(whole[0] ?? '');
  if (head?.dimmer !== 'host-recording') return err('line 1 is not the head of a host recording');
  if (head.version !== RECORDING_VERSION)
    return err(`the recording is of version ${String(head.version)}, this dimmer knows ${RECORDING_VERSION}`);
  const open = new Map<number, Call['call']>();
  const lines: RecordingLine[] = [];
  let calls = 0;
  for (const [k, raw] of whole.slice(1).entries()) {
    const where = `line ${k + 2}`;
    const line = parse(raw);
    if (line === undefined || typeof line.n !== 'number') return err(`${where} is not a line of a recording`);
    if (typeof line.call === 'string') {
      if (!Object.hasOwn(ANSWER_TO, line.call)) return err(`${where} is a call that this dimmer does not know`);
      if (line.n !== ++calls) return err(`${where} says that it is call ${line.n}; it is ${calls}`);
      open.set(line.n, line.call as Call['call']);
    } else {
      const call = open.get(line.n);
      if (call === undefined) return err(`${where} answers call ${line.n}, which is not under way`);
      if (ANSWER_TO[call] in line || 'failed' in line) open.delete(line.n);
      else if (!('cancel' in line) && !(call === 'watch' && 'line' in line))
        return err(`${where} is no answer to ${call}`);
    }
    lines.push(line as unknown as RecordingLine); // its kind is known; a member's type is its recorder's word
  }
  return ok(lines);
}

function parse(raw: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(raw);
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}
