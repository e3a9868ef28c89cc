pub fn svg(c:&crate::result::Comparison)->String{let _=c;String::new()}
