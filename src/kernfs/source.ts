// KernTree: a read-only view of the kernel's /proc and /sys, wherever it comes from.
//
// A live root, an unpacked directory and a capture bundle all answer the same two questions, so that a parser never
// knows which one it reads. Paths are absolute and as on the live machine ("/proc/zoneinfo",
// "/sys/devices/system/memory/memory32/state"). There is no way to write: that is the point.

export interface KernTree {
  /** The file's text, or undefined where the file is absent or could not be read. */
  readText(path: string): string | undefined;
  /** Names in a directory, sorted by code unit; empty where it is absent. Symbolic links count as names. */
  list(path: string): readonly string[];
}

/** Why a kernel file could not be understood: one clear sentence, with the file and the line. */
export type KernfsProblem = {
  readonly file: string;
  /** 1-based; 0 when it is about the file as a whole. */
  readonly line: number;
  readonly reason: string;
};
