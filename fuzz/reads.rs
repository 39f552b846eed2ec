/// Cuts the bytes into reads of these sizes, used in turn; none is empty but perhaps the last.
pub fn cut<'a>(bytes: &'a [u8], sizes: &[u8; 4]) -> Vec<&'a [u8]> {
    let mut rest = bytes;
    let mut reads = Vec::new();
    for &size in sizes.iter().cycle() {
        let Some((read, later)) = rest.split_at_checked(usize::from(size).max(1)) else {
            break;
        };
        reads.push(read);
        rest = later;
    }
    reads.push(rest);
    reads
}
