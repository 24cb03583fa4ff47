import { type Device, device as chooseDevice } from './device.js'
import { native } from './native.js'
import { flag } from './options.js'

/** For tests and benchmarks. */
export const debug = {
  /** The kernel that ran last on a device, such as `cpu.avx512.selective_scan.bld`. Waits for the queue. */
  lastKernel(device?: Device | string): string {
    return native.lastKernel(chooseDevice(device).id)
  },
  /**
   * What a device reaches with nothing in the way, measured now, in units a second: `read` and `copy` (bytes; a copy counts
   * both ways), `fma` (float32 operations, two for each multiply-add); on CUDA also `bf16` (operations of the tensor cores by
   * mma.sync, operands in registers) and `ex2` (exponentials). Blocks for a moment. Throws ERR_OPTION for another name.
   */
  ceiling(name: string, device?: Device | string): number {
    return native.ceiling(chooseDevice(device).id, name)
  },
  /** Whether new memory is filled with NaN (bytes of 0xff), so that what a kernel leaves unwritten shows. */
  poison(on: boolean): void {
    native.poison(flag(on, 'on'))
  },
}
