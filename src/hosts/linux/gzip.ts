// gzip for the pure layers: node:zlib behind the two functions that a bundle wants, and a reader of large .gz files
// that never holds more than one member.
//
// A .gz file is a sequence of members, each with its own CRC-32 and length; `zcat` gives them all, one after the other.
// What dimmer writes has a member for every 8 MiB of words, so that the words of a large machine stream. A .gz made by
// gzip(1) is one member and has to fit in MEMBER_MAX. Node has no synchronous streaming inflate: hence by members.
//
// RFC 1952 (the file format), RFC 1951 (deflate).

import { crc32, gunzipSync, gzipSync, inflateRawSync } from 'node:zlib';
import type { Gunzip, Gzip } from '#capture/bundle';

/** A whole member unpacks in memory: 512 MiB are the words of a 256 GiB machine. */
const MEMBER_MAX = 512 * 1024 ** 2;

export const gzip: Gzip = (bytes) => gzipSync(bytes);

export const gunzip: Gunzip = (bytes, rawBytes) => {
  try {
    // zlib refuses a limit of 0; one byte more than promised is enough to see that the promise is broken.
    const raw = gunzipSync(bytes, { maxOutputLength: rawBytes + 1 });
    return raw.length === rawBytes ? raw : undefined;
  } catch {
    return undefined;
  }
};

/**
 * Calls back with the contents of each member in turn. @returns a sentence saying what is wrong, undefined when all of
 * the file was sound; what was handed out before a fault was sound. Memory: the file and one member.
 */
export function forEachGzipMember(file: Uint8Array, each: (raw: Uint8Array) => void): string | undefined {
  for (let at = 0; at < file.length; ) {
    const start = skipMemberHeader(file, at);
    if (start === undefined) return at === 0 ? 'it is not gzip' : `byte ${at} does not begin a gzip member`;
    let raw: Uint8Array;
    let end: number;
    try {
      const inflated = inflateRawSync(file.subarray(start), { info: true, maxOutputLength: MEMBER_MAX }) as unknown as {
        buffer: Buffer; // @types/node does not know what `info` makes of the result
        engine: { bytesWritten: number };
      };
      raw = inflated.buffer;
      end = start + inflated.engine.bytesWritten;
    } catch (e) {
      return codeOf(e) === 'ERR_BUFFER_TOO_LARGE' ? 'a gzip member is larger than 512M' : 'its gzip data is damaged';
    }
    if (end + 8 > file.length) return 'its gzip data is cut short';
    const view = new DataView(file.buffer, file.byteOffset + end, 8);
    if (view.getUint32(0, true) !== crc32(raw) || view.getUint32(4, true) !== raw.length)
      return 'its gzip checksum does not fit';
    each(raw);
    at = end + 8;
  }
  return undefined;
}

const FLAG_CRC = 2;
const FLAG_EXTRA = 4;
const FLAG_NAME = 8;
const FLAG_COMMENT = 16;

/** Where the deflate data of the member at `at` begins. */
function skipMemberHeader(file: Uint8Array, at: number): number | undefined {
  if (at + 18 > file.length || file[at] !== 0x1f || file[at + 1] !== 0x8b || file[at + 2] !== 8) return undefined;
  const flags = file[at + 3];
  let next = at + 10;
  if (flags & FLAG_EXTRA) next += 2 + file[next] + file[next + 1] * 256;
  for (const flag of [FLAG_NAME, FLAG_COMMENT])
    if (flags & flag) {
      const zero = file.indexOf(0, next);
      if (zero < 0) return undefined;
      next = zero + 1;
    }
  if (flags & FLAG_CRC) next += 2;
  return next < file.length ? next : undefined;
}

/** The code of a system or zlib error: "ENOENT", "EACCES"; empty for anything else that was thrown. */
export function codeOf(e: unknown): string {
  return e instanceof Error && 'code' in e && typeof e.code === 'string' ? e.code : '';
}
