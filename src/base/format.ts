// Sizes and addresses as people write and read them: IEC units, always with a unit on input.

const UNITS = ['B', 'K', 'M', 'G', 'T', 'P', 'E'] as const;

/** 134217728 -> "128M", 1610612736 -> "1.5G"; util-linux's short form: one decimal only where it is needed. */
export function formatSize(bytes: number): string {
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit++;
  }
  const rounded = Math.round(value * 10) / 10;
  return `${Number.isInteger(rounded) ? rounded : rounded.toFixed(1)}${UNITS[unit]}`;
}

/**
 * "4G", "4g", "4GiB", "2048M", "512K", "100B" -> bytes. Undefined for anything else, a bare number included:
 * chmem reads it as MiB and people are bitten (spec/users.md C). Fractions are allowed when they are whole bytes.
 */
export function parseSize(text: string): number | undefined {
  const m = /^(\d+(?:\.\d+)?)\s*([BKMGTPE])(?:i?B)?$/i.exec(text.trim());
  if (m === null) return undefined;
  const unit = UNITS.indexOf((m[2] as string).toUpperCase() as (typeof UNITS)[number]);
  const bytes = Number(m[1]) * 1024 ** unit;
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** Lower-case hexadecimal, zero-padded: hex(26, 8) -> "0000001a". Exact up to 2^53. */
export const hex = (n: number, width = 0): string => n.toString(16).padStart(width, '0');

/** 1234567 -> "1 234 567" (thin groups read better than commas in tables of pages). */
export const groupDigits = (n: number): string => String(n).replace(/\B(?=(\d{3})+$)/g, ' ');

/** "1 page", "2 pages". */
export const plural = (n: number, noun: string): string => `${groupDigits(n)} ${noun}${n === 1 ? '' : 's'}`;
