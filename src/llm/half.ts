/** The conversions live with the file formats that need them (src/files imports nothing from above). */
export * from "../files/half.ts";
