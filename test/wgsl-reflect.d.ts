/** wgsl_reflect ships its types beside another entry point. */
declare module "wgsl_reflect/wgsl_reflect.module.js" {
  export interface RaceReport {
    readonly races: readonly { readonly message: string }[];
    readonly errors: readonly string[];
  }
  export function detectRaces(
    source: string,
    entryPoint: string,
    workgroups: readonly number[],
    bindGroups: Readonly<Record<string, Readonly<Record<string, unknown>>>>,
    options?: Readonly<Record<string, unknown>>,
  ): RaceReport;
}
