// Memparse: sizes on a kernel command line, read as the kernel reads them.
//
//   "0x10k"  ->  16 * 1024        digits with base 0 (0x hexadecimal, 0 octal), then at most one of K M G T P E
//   "4GB", "4G@1G", "1.5G"        what follows the suffix, or the last digit without one, is not looked at
//   "lots"   ->  0                 no number is 0, never an error
//
// 64 bits, and what is beyond is lost: BigInt, because sizes are read once and have to be exact.
// Follows Linux v6.12 lib/cmdline.c: memparse(), lib/vsprintf.c: simple_strtoull().

/**
 * Linux's memparse(): digits (0x hexadecimal, 0 octal) and a suffix K M G T P E; what follows is not looked at. Text
 * that is no number is 0; 64 bits, and what is beyond is lost, as there.
 */
export function memparse(text: string): bigint {
  const { value, rest } = simpleStrtoull(text);
  const power = 'KMGTPE'.indexOf((rest[0] ?? '').toUpperCase());
  return rest === '' || power < 0 ? value : BigInt.asUintN(64, value << BigInt(10 * (power + 1)));
}

/** lib/vsprintf.c: simple_strtoull() with base 0. */
export function simpleStrtoull(text: string): { value: bigint; rest: string } {
  const m = /^(?:0x[0-9a-f]+|0[0-7]*|[1-9]\d*)/i.exec(text);
  if (m === null) return { value: 0n, rest: text };
  const digits = m[0];
  const octal = /^0[0-7]+$/.test(digits);
  const value = BigInt.asUintN(64, BigInt(octal ? `0o${digits.slice(1)}` : digits));
  return { value, rest: text.slice(digits.length) };
}
